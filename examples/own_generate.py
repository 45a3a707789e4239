"""Your own `generate` call, plain and mitigated: nothing about it changes.

    python examples/own_generate.py

The planted model is built in memory and answers in a second. For a real one, load it as you do:
`AutoModelForImageTextToText.from_pretrained(...)` and `AutoProcessor.from_pretrained(...)`.
"""

import vlm_heads
from vlm_heads.models import planted_image

vlm = vlm_heads.VLM.from_pretrained("planted")
model, processor = vlm.model, vlm.processor  # ordinary objects of transformers

messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what do you see?"}]}]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(images=planted_image("car"), text=prompt, return_tensors="pt")
start = inputs["input_ids"].shape[1]

output = model.generate(**inputs, max_new_tokens=20)
print("plain:    ", processor.decode(output[0, start:], skip_special_tokens=True))

with vlm_heads.attach(model, "vhr:gain=2") as run:
    output = model.generate(**inputs, max_new_tokens=20)  # the same call
print("mitigated:", processor.decode(output[0, start:], skip_special_tokens=True))
print(run.receipt)
