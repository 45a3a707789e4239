"""M3ID: the image-free stream is taken off more and more as the answer grows (Favero et al., CVPR 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class FadingImage(Contrast):
    """M3ID: `z + (1 - g) / g (z - z(no image))` with `g = exp(-rate t)`.

    `t` counts the tokens generated so far. The first token is the first stream's own, so a POPE answer cannot change.

    Formula:
        z, z2    log-probabilities of the next token with the image and with its tokens deleted
        g  = exp(-rate * t)
        z <- z + (1 - g) / g * (z - z2)   among tokens with p >= bound * max p

    Paper and program:
        The paper contrasts only where the first stream is unsure, and its `t` counts from 1. A public re-implementation
        has no such gate, excludes implausible tokens instead, and counts from 1 too. This one excludes implausible
        tokens and counts from 0. That a POPE answer cannot change is a fact about this one, not about the method.
    """

    name: ClassVar[str] = "m3id"
    label: ClassVar[str] = "M3ID"
    paper: ClassVar[Paper | None] = Paper(
        "Favero et al.",
        "Multi-Modal Hallucination Control by Visual Information Grounding",
        2024,
        "CVPR",
        "2403.14003",
    )

    rate: float = option(0.02, at_least=0.0, neutral=0.0, help="rate per token at which the image is forgotten")

    def second_stream(self, asked: Asked) -> SecondStream:
        return asked.without_image()

    def weights(self, step: int) -> tuple[float, float]:
        missing = math.expm1(self.rate * step)  # (1 - g) / g
        return 1.0 + missing, -missing
