"""How one talks to `small`: SmolLM2's tokenizer and its ChatML turns, with pictures."""

from __future__ import annotations

import json

from tokenizers import Tokenizer
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from vlm_evals.scenes.tokens import with_images

START, END = "<|im_start|>", "<|im_end|>"
PADDING = "<|endoftext|>"  # no chat holds it, so the end of an answer is never taken for padding
IMAGE = "<image>"
UNUSED = "<empty_output>"  # a special token of SmolLM2 that chats never hold; the image token takes its place
BEFORE_IMAGE = f"{START}user\n"
BEFORE_ANSWER = f"{END}\n{START}assistant\n"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_processor(base: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor around the base's tokenizer: pictures as `mini` sees them, prompts in ChatML.

    The ids are the base's. One unused special token is renamed to `<image>`, the word that LLaVA's users write. Unlike
    the base's template this one adds no system turn of its own.

    Raises:
        KeyError: if the tokenizer lacks a special token of SmolLM2.
    """
    described = json.loads(base.backend_tokenizer.to_str())
    words = described["model"]["vocab"]
    words[IMAGE] = words.pop(UNUSED)
    for token in described["added_tokens"]:
        if token["content"] == UNUSED:
            token["content"] = IMAGE
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        bos_token=START,
        eos_token=END,
        unk_token=PADDING,
        pad_token=PADDING,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=8192,
    )
    return with_images(tokenizer, CHAT_TEMPLATE)


def encode(tokenizer: PreTrainedTokenizerFast, line: str) -> list[int]:
    """Return the token ids of a piece of a chat; marks of turns become their special tokens."""
    ids: list[int] = tokenizer.backend_tokenizer.encode(line, add_special_tokens=False).ids
    return ids
