"""From images and prompts to a model's inputs, through the processor and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from vlm_heads.errors import BadPrompt, UnsupportedModel
from vlm_heads.models.placement import input_device

DEFAULT_PROMPT = "Please describe this image in detail."  # the published protocol's


def chat_text(processor: Any, prompt: str) -> str:
    """Return the text of one user turn with one image, as the processor's chat template writes it.

    A processor without a template gets its image token, a line break and the prompt.

    Raises:
        BadPrompt: if the prompt is no text, is empty, or carries the image token itself.
    """
    if not isinstance(prompt, str):
        raise BadPrompt(f"prompt={prompt!r}: a text is needed, as 'what is in the picture?'")
    if not prompt.strip():
        raise BadPrompt("the prompt is empty; ask something, for instance 'Please describe this image in detail.'")
    token = getattr(processor, "image_token", None)
    if token is not None and str(token) in prompt:
        raise BadPrompt(f"the prompt carries the image token {token!r}; it is put in by itself, leave it out")
    video = getattr(processor, "video_token", None)
    if video is not None and str(video) in prompt:
        raise BadPrompt(f"the prompt carries the video token {video!r}; videos are not looked at, leave it out")
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return str(text)
    return f"{token}\n{prompt}" if token is not None else prompt


def model_inputs(
    model: nn.Module, processor: Any, images: Sequence[Image.Image], prompts: Sequence[str]
) -> dict[str, Any]:
    """Return the inputs of one batch, left-padded, on the model's device and in its dtype.

    Args:
        model: where the inputs go.
        processor: the model's own.
        images: one upright RGB image per row.
        prompts: one per row.

    Raises:
        UnsupportedModel: if the processor leaves no image token in the text.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        # generation continues from the right edge
        tokenizer.padding_side = "left"
    texts = [chat_text(processor, prompt) for prompt in prompts]
    bos = getattr(tokenizer, "bos_token", None)
    special = not (bos and all(text.startswith(bos) for text in texts))
    batch = processor(
        images=[[image] for image in images],
        text=texts,
        padding=len(texts) > 1,
        return_tensors="pt",
        add_special_tokens=special,
    )
    device, dtype = input_device(model), next(model.parameters()).dtype
    inputs = {name: _moved(value, device, dtype) for name, value in batch.items()}
    image_token_id = getattr(processor, "image_token_id", None)
    if image_token_id is not None and not bool((inputs["input_ids"] == image_token_id).any(dim=1).all()):
        raise UnsupportedModel("the processor left no image token in the prompt; its chat template takes no image")
    return inputs


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else None)
