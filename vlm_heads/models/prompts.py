"""From images and prompts to a model's inputs, through the processor and its chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import nn

from vlm_heads.errors import BadImage, BadPrompt, UnsupportedModel, VlmHeadsError
from vlm_heads.models.placement import input_device
from vlm_heads.models.shown import remember

DEFAULT_PROMPT = "Please describe this image in detail."  # the published protocol's
# What processors of transformers raise on a picture or a text that they do not take.
REFUSALS = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        role: who speaks.
        text: what is said.
        image: whether the conversation's image stands before the text.
    """

    role: Role
    text: str
    image: bool = False


@dataclass(frozen=True)
class Conversation:
    """Several turns about one image; a prompt alone is the conversation of one turn with the image.

    Attributes:
        turns: in their order; the last one is the user's, and one of the user's shows the image.

    Raises:
        BadPrompt: if the last turn is not the user's, or not exactly one of the user's shows the image.
    """

    turns: tuple[Turn, ...]

    def __post_init__(self) -> None:
        if not self.turns or self.turns[-1].role != "user":
            raise BadPrompt("the last turn of a conversation is not the user's: there is nothing to answer")
        showing = [turn.role for turn in self.turns if turn.image]
        if showing != ["user"]:
            raise BadPrompt(
                f"{len(showing)} turns of the conversation show an image; exactly one of the user's turns has to"
            )

    def preceded_by(self, text: str) -> Conversation:
        """Return the same conversation with a text put before what the user said last."""
        last = self.turns[-1]
        return Conversation((*self.turns[:-1], replace(last, text=f"{text} {last.text}")))


Prompt = str | Conversation


def preceded(prompt: Prompt, text: str) -> Prompt:
    """Return a prompt with a text put before it, before the last turn of a conversation."""
    return f"{text} {prompt}" if isinstance(prompt, str) else prompt.preceded_by(text)


def said_last(prompt: Prompt) -> str:
    """Return what is asked: a prompt, or the last turn of a conversation."""
    return prompt if isinstance(prompt, str) else prompt.turns[-1].text


def chat_text(processor: Any, prompt: Prompt, pictures: int = 1) -> str:
    """Return the text of one user turn with its images, or of a conversation, as the processor's template writes it.

    A processor without a template gets its image token for each, a line break and the prompt.

    Raises:
        BadPrompt: if the prompt is no text, is empty, or carries the image token itself; or if the processor's template
            takes no such conversation, or it has none.
    """
    turns = _turns(prompt)
    for turn in turns:
        _require_plain(processor, turn.text)
    if getattr(processor, "chat_template", None):
        return _templated(processor, turns, pictures)
    if len(turns) > 1:
        raise BadPrompt("the model's processor has no chat template: ask in one turn, without a system prompt")
    token = getattr(processor, "image_token", None)
    return f"{str(token) * pictures}\n{turns[0].text}" if token is not None else turns[0].text


def _turns(prompt: object) -> tuple[Turn, ...]:
    """Return the turns of a prompt.

    Raises:
        BadPrompt: if it is neither a text nor a conversation.
    """
    if isinstance(prompt, Conversation):
        return prompt.turns
    if not isinstance(prompt, str):
        raise BadPrompt(f"prompt={prompt!r}: a text is needed, as 'what is in the picture?'")
    return (Turn("user", prompt, image=True),)


def _require_plain(processor: Any, text: str) -> None:
    """Raise `BadPrompt` where a turn says nothing, or carries a token that stands for pictures or videos."""
    if not text.strip():
        raise BadPrompt("the prompt is empty; ask something, for instance 'Please describe this image in detail.'")
    token = getattr(processor, "image_token", None)
    if token is not None and str(token) in text:
        raise BadPrompt(f"the prompt carries the image token {token!r}; it is put in by itself, leave it out")
    video = getattr(processor, "video_token", None)
    if video is not None and str(video) in text:
        raise BadPrompt(f"the prompt carries the video token {video!r}; videos are not looked at, leave it out")


def _templated(processor: Any, turns: Sequence[Turn], pictures: int) -> str:
    from jinja2.exceptions import TemplateError

    messages = [
        {
            "role": turn.role,
            "content": [{"type": "image"}] * (turn.image * pictures) + [{"type": "text", "text": turn.text}],
        }
        for turn in turns
    ]
    try:
        return str(processor.apply_chat_template(messages, add_generation_prompt=True))
    except TemplateError as refusal:
        raise BadPrompt(f"the model's chat template refuses these turns: {refusal}") from refusal


def model_inputs(
    model: nn.Module,
    processor: Any,
    images: Sequence[Image.Image | Sequence[Image.Image]],
    prompts: Sequence[Prompt],
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
    _require_free_of(_reserved(model, processor), [turn.text for prompt in prompts for turn in _turns(prompt)])
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


def _require_free_of(reserved: Sequence[str], texts: Sequence[str]) -> None:
    for text in texts:
        if carried := next((token for token in reserved if token in text), None):
            raise BadPrompt(
                f"the prompt carries {carried!r}, which stands for pictures in this model's input; leave it out"
            )


def _processed(processor: Any, shown: Sequence[list[Image.Image]], prompts: Sequence[Prompt]) -> Mapping[str, Any]:
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
    processor: Any, shown: Sequence[list[Image.Image]], prompts: Sequence[Prompt], failure: Exception
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
            last = _turns(prompt)[-1].text
            return BadPrompt(f"the model's processor refuses the prompt {last[:80]!r}: {reason}")
    return None


def _takes(processor: Any, image: Image.Image, prompt: Prompt) -> bool:
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
