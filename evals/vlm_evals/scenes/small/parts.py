"""What the training of `small` starts from: the language model, and the vision tower of `mini`."""

from __future__ import annotations

from transformers import LlavaForConditionalGeneration, PreTrainedModel

from vlm_evals.scenes.embedded import mini

from .base import Base, load_base


def load_parts() -> tuple[Base, PreTrainedModel]:
    """Return the language model and `mini`'s tower.

    Raises:
        UnknownModel: if one of them is not installed.
    """
    base, folder = load_base(), mini().folder
    assert folder is not None  # mini has a checkpoint
    return base, LlavaForConditionalGeneration.from_pretrained(folder()).model.vision_tower
