"""Ask vLLM, in its own environment: `python ask_vllm.py CHECKPOINT < questions > answers`, both JSON.

Questions are [image path, text of the whole prompt]; answers are the generated ids of each. Not imported by a test:
vLLM's requirements and ours do not meet in one environment, so that test_serving.py runs it as a program.
"""

import json
import sys

TOKENS = 96


def answers(checkpoint: str, questions: list[tuple[str, str]]) -> list[list[int]]:
    """Return the generated ids of each question, greedy, in float32."""
    from PIL import Image
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=checkpoint,
        dtype="float32",
        max_model_len=256,
        enforce_eager=True,
        limit_mm_per_prompt={"image": 1},
    )
    asked: list[dict[str, object]] = []
    for path, prompt in questions:
        with Image.open(path) as image:
            asked.append({"prompt": prompt, "multi_modal_data": {"image": image.convert("RGB")}})
    found = engine.generate(asked, SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False)
    return [list(one.outputs[0].token_ids) for one in found]


if __name__ == "__main__":
    print("ANSWERS " + json.dumps(answers(sys.argv[1], json.load(sys.stdin))))
