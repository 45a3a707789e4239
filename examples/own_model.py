"""Your own LLaVA, Qwen or other vision-language model, loaded the way you load it.

    python examples/own_model.py llava-hf/llava-1.5-7b-hf photo.jpg

Without arguments it runs the planted model, written into a temporary folder first.
"""

import sys
import tempfile
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor

import vlm_heads
from vlm_heads.models import planted_image


def describe(name: str, picture: str) -> None:
    """Print what a model says about a picture under VHR, and which heads that took."""
    model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto", device_map="auto")
    processor = AutoProcessor.from_pretrained(name)
    content = [{"type": "image", "path": picture}, {"type": "text", "text": "Please describe this image in detail."}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device, model.dtype)
    with vlm_heads.attach(model, "vhr:gain=2") as run:
        output = model.generate(**inputs, max_new_tokens=256)
    print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    print(run.receipt)


if len(sys.argv) == 3:
    describe(sys.argv[1], sys.argv[2])
else:
    with tempfile.TemporaryDirectory() as folder:
        planted = vlm_heads.VLM.from_pretrained("planted")
        planted.model.save_pretrained(folder)
        planted.processor.save_pretrained(folder)
        planted_image("car").save(Path(folder, "photo.png"))
        describe(folder, str(Path(folder, "photo.png")))
