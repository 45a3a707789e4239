"""From images and prompts to a model's inputs, through the processor and its chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from vlm_heads.errors import BadImage, BadPrompt, UnsupportedModel, VlmHeadsError
from vlm_heads.models.placement import input_device
from vlm_heads.models.shown import remember

DEFAULT_PROMPT = "Please describe this image in detail."  # the published protocol's
# What processors of transformers raise on a picture or a text that they do not take.
REFUSALS = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def chat_text(processor: Any, prompt: str, pictures: int = 1) -> str:
    """Return the text of one user turn with its images, as the processor's chat template writes it.

    A processor without a template gets its image token for each, a line break and the prompt.

    Raises:
        BadPrompt: if the prompt is no text, is empty, or carries the image token itself.
    """
    _require_text(prompt)
    if not prompt.strip():
        raise BadPrompt("the prompt is empty; ask something, for instance 'Please describe this image in detail.'")
    token = getattr(processor, "image_token", None)
    if token is not None and str(token) in prompt:
        raise BadPrompt(f"the prompt carries the image token {token!r}; it is put in by itself, leave it out")
    video = getattr(processor, "video_token", None)
    if video is not None and str(video) in prompt:
        raise BadPrompt(f"the prompt carries the video token {video!r}; videos are not looked at, leave it out")
    if getattr(processor, "chat_template", None):
        content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return str(text)
    return f"{str(token) * pictures}\n{prompt}" if token is not None else prompt


def _require_text(prompt: object) -> None:
    if not isinstance(prompt, str):
        raise BadPrompt(f"prompt={prompt!r}: a text is needed, as 'what is in the picture?'")


def model_inputs(
    model: nn.Module, processor: Any, images: Sequence[Image.Image | Sequence[Image.Image]], prompts: Sequence[str]
) -> dict[str, Any]:
    """Return the inputs of one batch, left-padded, on the model's device and in its dtype.

    Args:
        model: where the inputs go.
        processor: the model's own.
        images: one upright RGB image per row, or several.
        prompts: one per row.

    Raises:
        BadImage: if the processor refuses a picture, as one that is too long and narrow.
        BadPrompt: if it refuses a prompt, or a prompt carries a token that stands for pictures in the input.
        UnsupportedModel: if the processor leaves no image token in the text.
    """
    for prompt in prompts:
        _require_text(prompt)
    _require_free_of(_reserved(model, processor), prompts)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        # generation continues from the right edge
        tokenizer.padding_side = "left"
    shown = [[one] if isinstance(one, Image.Image) else list(one) for one in images]
    try:
        batch = _processed(processor, shown, prompts)
    except VlmHeadsError:
        raise
    except REFUSALS as failure:
        if (refusal := _refusal(processor, shown, prompts, failure)) is None:
            raise
        raise refusal from failure
    device, dtype = input_device(model), next(model.parameters()).dtype
    inputs = {name: _moved(value, device, dtype) for name, value in batch.items()}
    image_token_id = getattr(processor, "image_token_id", None)
    if image_token_id is not None and not bool((inputs["input_ids"] == image_token_id).any(dim=1).all()):
        raise UnsupportedModel("the processor left no image token in the prompt; its chat template takes no image")
    if all(len(one) == 1 for one in shown):
        remember(inputs, [one for (one,) in shown])
    return inputs


# Ids of a model's configuration that stand for text, and not for pictures, videos or sound.
_OF_TEXT = {f"{name}_token_id" for name in ("bos", "eos", "pad", "sep", "cls", "unk", "mask", "decoder_start")}


def _reserved(model: nn.Module, processor: Any) -> list[str]:
    """Return the tokens beside the image's that stand for pictures, videos or sound, or for where these start."""
    known = getattr(getattr(processor, "tokenizer", None), "added_tokens_decoder", None)
    config = getattr(model, "config", None)
    if not isinstance(known, Mapping) or config is None:
        return []
    stated = {name: value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index"))}
    ids = {value for name, value in stated.items() if name not in _OF_TEXT and isinstance(value, int)}
    own = str(getattr(processor, "image_token", ""))  # which `chat_text` refuses
    return [token for one in sorted(ids) if one in known and (token := str(known[one])) != own]


def _require_free_of(reserved: Sequence[str], prompts: Sequence[str]) -> None:
    for prompt in prompts:
        if carried := next((token for token in reserved if token in prompt), None):
            raise BadPrompt(
                f"the prompt carries {carried!r}, which stands for pictures in this model's input; leave it out"
            )


def _processed(processor: Any, shown: Sequence[list[Image.Image]], prompts: Sequence[str]) -> Mapping[str, Any]:
    texts = [chat_text(processor, prompt, len(images)) for images, prompt in zip(shown, prompts, strict=True)]
    tokenizer = getattr(processor, "tokenizer", None)
    bos = getattr(tokenizer, "bos_token", None)
    special = not (bos and all(text.startswith(bos) for text in texts))
    batch: Mapping[str, Any] = processor(
        images=list(shown),
        text=texts,
        padding=len(texts) > 1,
        return_tensors="pt",
        add_special_tokens=special,
    )
    return batch


def _refusal(
    processor: Any, shown: Sequence[list[Image.Image]], prompts: Sequence[str], failure: Exception
) -> BadImage | BadPrompt | None:
    """Return what a processor's failure means: a picture or a prompt that it refuses; None where it takes nothing."""
    plain = Image.new("RGB", (64, 64), "grey")
    if not _takes(processor, plain, DEFAULT_PROMPT):
        return None
    reason = str(failure).strip().split("\n")[0][:200]
    for images, prompt in zip(shown, prompts, strict=True):
        refused = next((image for image in images if not _takes(processor, image, DEFAULT_PROMPT)), None)
        if refused is not None:
            width, height = refused.size
            return BadImage(f"the model's processor refuses the picture of {width} x {height} pixels: {reason}")
        if not _takes(processor, plain, prompt):
            return BadPrompt(f"the model's processor refuses the prompt {prompt[:80]!r}: {reason}")
    return None


def _takes(processor: Any, image: Image.Image, prompt: str) -> bool:
    try:
        _processed(processor, [[image]], [prompt])
    except REFUSALS:
        return False
    return True


def with_answer(inputs: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """Return the inputs of one prompt with an answer's token ids appended, as text, to all that is as long as it.

    Args:
        inputs: of a model's forward, one row.
        ids: the answer's.
    """
    more = torch.tensor([list(ids)], dtype=torch.long, device=inputs["input_ids"].device)
    fillings = {"input_ids": more, "attention_mask": torch.ones_like(more)}
    fillings |= dict.fromkeys(("token_type_ids", "mm_token_type_ids"), torch.zeros_like(more))
    longer = dict(inputs)
    for name, filling in fillings.items():
        if isinstance(inputs.get(name), torch.Tensor):
            longer[name] = torch.cat([inputs[name], filling.to(inputs[name].dtype)], dim=1)
    return longer


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else None)
