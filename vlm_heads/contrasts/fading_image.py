"""M3ID: the image-free stream is taken off more and more as the answer grows (Favero et al., CVPR 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class FadingImage(Contrast):
    """M3ID: `z + (1 - g) / g (z - z(no image))` with `g = exp(-rate t)`.

    `t` counts the tokens of the answer from 1, so the first token, and with it a yes or no, is contrasted too.

    Formula:
        z, z2    log-probabilities of the next token with the image and with its tokens deleted
        g  = exp(-rate * t)
        z <- z + (1 - g) / g * (z - z2)   mode "code": among tokens with p >= bound * max p
                                          mode "paper": among all tokens, where max p < unsure_below

    Paper and program:
        The paper contrasts only where the first stream is unsure, and excludes no tokens. The public re-implementation
        (in AvisC's program) has no such gate and excludes implausible tokens. Both count from 1. The paper is known
        at second hand, and its threshold is not established. So "code" is the default, and `unsure_below` is ours.
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
    mode: Literal["code", "paper"] = option(
        "code", help='"code" excludes implausible tokens; "paper" excludes none and acts where the model is unsure'
    )
    unsure_below: float = option(
        0.5,
        at_least=0.0,
        at_most=1.0,
        help='with mode="paper": the most probable token has to be less probable than this; the value is ours',
    )

    def second_stream(self, asked: Asked) -> SecondStream:
        return asked.without_image()

    def weights(self, step: int) -> tuple[float, float]:
        missing = math.expm1(self.rate * (step + 1))  # (1 - g) / g
        return 1.0 + missing, -missing

    def mask(self) -> float:
        return 0.0 if self.mode == "paper" else self.bound

    def gate(self) -> float | None:
        return self.unsure_below if self.mode == "paper" else None
