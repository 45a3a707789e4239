"""VHD, vision-aware head divergence: how far a head's output moves when the image is removed (He et al. 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from vlm_heads.attached.two_streams import both_streams
from vlm_heads.families import Anatomy
from vlm_heads.scorers.base import Found, Scorer, empty
from vlm_heads.scorers.batch import batch_inputs
from vlm_heads.scorers.example import Example
from vlm_heads.toolkit import sensitivity
from vlm_heads.toolkit.described import Paper


@dataclass(frozen=True)
class VisionAwareness(Scorer):
    """VHD: the distance between a head's outputs with the image and without it, where the prompt ends.

    High means that the head depends on the image. Nothing is reinforced, normalised or filtered.

    Formula:
        s[l, i] = || A[l, i](with image) - A[l, i](image removed) ||_2   Eq. 4, at the prompt's last position
    """

    name: ClassVar[str] = "vhd"
    label: ClassVar[str] = "VHD"
    paper: ClassVar[Paper | None] = Paper(
        "He et al.",
        "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence",
        2025,
        "ACL",
        "2412.13949",
    )
    cost: ClassVar[str] = "2 forwards, one of them without the image"
    unit: ClassVar[str] = "norm of the change of a head's output"

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        sighted, blind = both_streams(model, anatomy, batch_inputs(model, processor, examples))
        scores, surges = empty(anatomy, len(examples)), empty(anatomy, len(examples))
        for layer, seen in sighted.outputs.items():
            if layer in blind.outputs:
                unseen = blind.outputs[layer][:, -1]
                scores[:, layer] = sensitivity.vision_awareness(seen[:, -1], unseen).cpu()
                surges[:, layer] = sensitivity.surge(unseen).cpu()
        yield from (Found(score[None], surges=surge) for score, surge in zip(scores, surges, strict=True))
