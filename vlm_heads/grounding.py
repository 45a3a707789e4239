"""token_grounding(): how much each generated token leaned on the image (T-VHD, He et al. 2025, Eq. 5)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vlm_heads.attached.two_streams import both_streams
from vlm_heads.errors import BadOption, BadPrompt
from vlm_heads.families import examine
from vlm_heads.models.images import ImageSource, load_image
from vlm_heads.models.prompts import model_inputs, with_answer
from vlm_heads.toolkit import sensitivity


@dataclass(frozen=True)
class TokenGrounding:
    """One token of a text and how much it leaned on the image.

    Attributes:
        token_id: its id.
        text: the piece of text it stands for.
        start: where the piece starts in the decoded text.
        end: where it ends.
        t_vhd: sum over layers of the `top` largest VHD of the position that predicts it, not normalised.
    """

    token_id: int
    text: str
    start: int
    end: int
    t_vhd: float


def token_grounding(
    model: nn.Module,
    processor: Any,
    image: ImageSource,
    prompt: str,
    text: str | Sequence[int],
    *,
    top: int | None = None,
) -> list[TokenGrounding]:
    """Return T-VHD for each token of a text that answers a prompt about an image.

    Two teacher-forced passes, with and without the image, both over the same text. Nothing is reinforced.

    Args:
        model: a vision-language model of transformers.
        processor: its processor.
        image: what the text is about.
        prompt: what was asked.
        text: the answer, or its token ids as they were generated.
        top: heads counted in each layer; None is 8, at most a quarter of the heads. The paper does not give it.

    Raises:
        BadPrompt: if the text is empty.
        BadOption: if `top` is below 1.
    """
    anatomy = examine(model)
    if top is not None and top < 1:
        raise BadOption(f"top={top}: at least one head in each layer must be counted")
    inputs = model_inputs(model, processor, [load_image(image)], [prompt])
    ids = _token_ids(processor, text, anatomy.vision_token_ids)
    # the last token is predicted, and predicts no token of the text
    sighted, blind = both_streams(model, anatomy, with_answer(inputs, ids[:-1]), positions=len(ids))
    total = torch.zeros(len(ids), dtype=torch.float64)
    for layer, seen in sighted.outputs.items():
        if layer in blind.outputs:
            awareness = sensitivity.vision_awareness(seen[0], blind.outputs[layer][0])
            counted = sensitivity.token_awareness(awareness, top or sensitivity.default_top(anatomy.heads))
            total += counted.double().cpu()
    return _pieces(processor.tokenizer, ids, total.tolist())


def _token_ids(processor: Any, text: str | Sequence[int], vision: Collection[int]) -> list[int]:
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"] if isinstance(text, str) else list(text)
    if not ids:
        raise BadPrompt("the text is empty, so there is no token to trace back to the image")
    if any(token_id in vision for token_id in ids):
        raise BadPrompt("the text carries the image token; give the answer alone")
    return [int(token_id) for token_id in ids]


def _pieces(tokenizer: Any, ids: Sequence[int], scores: Sequence[float]) -> list[TokenGrounding]:
    """Return the tokens with the piece of text that each one adds to the decoded beginning."""
    found = []
    before = ""
    for index, (token_id, score) in enumerate(zip(ids, scores, strict=True)):
        decoded = tokenizer.decode(ids[: index + 1], skip_special_tokens=True)
        # a token that is half a character changes the text before it; its piece starts where the two texts differ
        start = next((at for at, (a, b) in enumerate(zip(before, decoded, strict=False)) if a != b), len(before))
        start = min(start, len(decoded))
        found.append(TokenGrounding(token_id, decoded[start:], start, len(decoded), score))
        before = decoded
    return found
