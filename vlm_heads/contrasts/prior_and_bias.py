"""CRoPS: a stream of the language's prior and one of statistical bias are taken off (Anand et al., TMLR 2026)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from vlm_kernels import KeyClass

from vlm_heads.attached.closed_keys import ClosedKeys, beyond_lowest
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.stream_edit import SecondStreamCall
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.contrasts.least_image_keys import LeastImageKeys
from vlm_heads.families import Anatomy
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option

_PACE = 0.001  # per token, at which the text keys grow


@dataclass(frozen=True)
class PriorAndBias(Contrast):
    """CRoPS: `z - z_a` more and more as the answer grows, and `z - z_b`, for two streams that see too little.

    Stream a has no image, and in the layers from `start` on the few keys that its last row attended to least in the
    layer before. Stream b has the image, with its least attended keys alone, as in SID. Both choose anew for every
    token.

    Formula:
        t    counts the tokens of the answer from 1
        n_t  = floor(text + text_more * (1 - exp(-0.001 * t)))    keys that stream a keeps
        g    = exp(rate * t) - 1
        L    = z + g * (z - z_a)
        z    <- (1 + alpha) * L - alpha * z_b   among tokens with p >= bound * max p, where max p < sure among these

    Paper and program:
        The program's option for how many image keys stay is not read: a quarter stays, as here. Its public versions
        differ: text is 10 or 40, and rate and bound are 0.01 and 0.1, or 0.02 and 0.3 in its defaults. It leaves a row
        alone where max p is above `sure`, here where it reaches it. A row that sees no key at all is undefined there,
        and here sees itself.
    """

    name: ClassVar[str] = "crops"
    label: ClassVar[str] = "CRoPS"
    paper: ClassVar[Paper | None] = Paper(
        "Anand et al.",
        "CRoPS: A Training-Free Hallucination Mitigation Framework for Vision-Language Models",
        2026,
        "TMLR",
        "2601.00659",
    )
    passes: ClassVar[int] = 3

    alpha: float = option(1.0, at_least=0.0, neutral=0.0, help="strength of the contrast with stream b")
    rate: float = option(0.01, at_least=0.0, neutral=0.0, help="rate per token at which the contrast with a grows")
    text: int = option(10, at_least=1, help="keys that stream a keeps at first")
    text_more: int = option(30, at_least=0, help="keys that it keeps beside them in the end")
    share: float = option(0.25, at_least=0.0, at_most=1.0, help="of the image keys that stream b keeps")
    start: int = option(2, at_least=1, help="first layer in which the others are closed")
    sure: float = option(0.95, at_least=0.0, at_most=1.0, help="probability that leaves a row alone")

    def check(self, anatomy: Anatomy) -> None:
        super().check(anatomy)
        LeastImageKeys(self.start, self.share).check(anatomy)

    def streams(self, asked: Asked) -> tuple[SecondStream, ...]:
        prior = asked.without_image(edit=_LeastTextKeys(self.start, self.text, self.text_more))
        return prior, asked.again(edit=LeastImageKeys(self.start, self.share))

    def weights(self, step: int) -> tuple[float, ...]:
        growing = (1.0 + self.alpha) * math.expm1(self.rate * (step + 1))
        return 1.0 + self.alpha + growing, -growing, -self.alpha

    def gate(self) -> float | None:
        return self.sure


@dataclass(frozen=True)
class _LeastTextKeys(ClosedKeys):
    """Keeps the keys that are attended to least, a few more at every token.

    Attributes:
        first: how many at first.
        more: how many beside them in the end.
    """

    first: int
    more: int

    def closed(self, call: SecondStreamCall, weights: Tensor, seen: Tensor) -> Tensor:
        said = (seen & (call.key_map.classes == KeyClass.GENERATED)).sum(dim=1, keepdim=True)
        kept = self.first - self.more * torch.expm1(-_PACE * (said + 1).double())
        return beyond_lowest(weights, seen, kept.floor().long())
