"""Head outputs of the same text with and without its image, nothing changed: what VHD and T-VHD compare."""

from __future__ import annotations

from typing import Any

from torch import nn

from vlm_heads.attached.installing import installed
from vlm_heads.attached.tracking import Tracker
from vlm_heads.attached.turns import turn_of
from vlm_heads.blind import Recording
from vlm_heads.families import Anatomy
from vlm_heads.receipt import Receipt
from vlm_heads.wrappers import unwrapped


def both_streams(
    model: nn.Module, anatomy: Anatomy, inputs: dict[str, Any], positions: int = 1
) -> tuple[Recording, Recording]:
    """Return the heads' outputs at the last `positions` of each row, with the image and without it.

    Args:
        model: a vision-language model of transformers.
        anatomy: of this model.
        inputs: what its forward takes; one row per sample, padded on either side.
        positions: how many positions are kept, counted back from each row's end.

    Raises:
        UnsupportedModel: if the model uses an attention that cannot be followed.
        UnsupportedGeneration: if a row has fewer positions than asked for.
    """
    model = unwrapped(model)
    tracker = Tracker(model, anatomy, (), Receipt(anatomy.model_type, anatomy.heads, ()))
    with turn_of(model).between(), installed(anatomy, tracker):
        return tracker.look_both_ways(inputs, positions)
