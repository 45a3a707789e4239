"""BranchContrast: a stream that loses the direct view of the image above a layer is taken off (ours)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from vlm_heads.attached.branched_stream import BranchedStream, require_hideable
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.families import Anatomy, examine
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class BranchContrast(Contrast):
    """BranchContrast: `z + w (z - z2)`, where `z2` sees no image key in the layers from `start` on.

    The second stream leaves the first at that layer. It keeps what the text has taken from the image below, and loses
    the direct view above. At `start` 0 it is the image-free stream of M3ID without moved positions.

    Formula:
        l  = round(start * layers)   the first layer without image keys, at most the last one
        z, z2    log-probabilities of the next token with all keys, and with the image's keys hidden from layer l on
        w  = weight                  schedule "fixed"
        w  = exp(rate * t) - 1       schedule "growing", as in M3ID; t counts the tokens of the answer from 1
        z <- z + w * (z - z2)        among tokens with p >= bound * max p
    """

    name: ClassVar[str] = "branch"
    label: ClassVar[str] = "BranchContrast"
    paper: ClassVar[Paper | None] = None

    start: float = option(
        0.25,
        at_least=0.0,
        at_most=1.0,
        help="how deep the image is hidden from, as a share of the layers: 0.25 of eight is the third layer",
    )
    schedule: Literal["fixed", "growing"] = option(
        "fixed", help='"fixed" weighs every token alike; "growing" weighs later tokens more, as M3ID does'
    )
    weight: float = option(0.25, at_least=0.0, neutral=0.0, help='with schedule="fixed": strength of the contrast')
    rate: float = option(
        0.02, at_least=0.0, neutral=0.0, help='with schedule="growing": rate per token at which the contrast grows'
    )

    def check(self, anatomy: Anatomy) -> None:
        super().check(anatomy)
        require_hideable(anatomy, self.first_layer(anatomy.depth))

    def second_stream(self, asked: Asked) -> SecondStream:
        return BranchedStream(asked.model, asked.inputs, self.first_layer(examine(asked.model).depth))

    def first_layer(self, depth: int) -> int:
        """Return the first layer, zero-based, in which the image is hidden from the second stream."""
        return min(round(self.start * depth), depth - 1)

    def weights(self, step: int) -> tuple[float, float]:
        strength = self.weight if self.schedule == "fixed" else math.expm1(self.rate * (step + 1))
        return 1.0 + strength, -strength
