"""The same prompts about other pictures, one or several each: the caller's words, and picture positions anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import nn

from vlm_heads.asking.drafts import prompt_mask
from vlm_heads.asking.whole_prompts import WholePrompts
from vlm_heads.families import Anatomy
from vlm_heads.generate_call import GenerateCall
from vlm_heads.models.prompts import model_inputs

_ANY = "what is it?"  # its words are left out


def about_others(
    model: nn.Module, processor: Any, anatomy: Anatomy, call: GenerateCall, pictures: Sequence[Sequence[Image.Image]]
) -> dict[str, Any]:
    """Return inputs in which each prompt of a call stands as it did, and its picture's place holds these pictures.

    Args:
        model: that is asked.
        processor: its own.
        anatomy: of the model.
        call: of `generate`, with one picture in each prompt.
        pictures: of each row.
    """
    fresh = model_inputs(model, processor, pictures, [_ANY] * len(pictures))
    seen = set(anatomy.vision_token_ids)
    rows = []
    for ids, mask, other in zip(call.inputs["input_ids"], prompt_mask(call), fresh["input_ids"], strict=True):
        own, new = ids[mask.bool()].tolist(), other.tolist()
        start, end = _span(own, seen)
        first, last = _span(new, seen)
        rows.append(own[:start] + new[first:last] + own[end:])
    return WholePrompts(fresh, anatomy.vision_token_ids).of(rows)


def _span(ids: Sequence[int], seen: set[int]) -> tuple[int, int]:
    """Return where the first picture position is, and where the last one ends."""
    places = [place for place, one in enumerate(ids) if one in seen]
    return places[0], places[-1] + 1
