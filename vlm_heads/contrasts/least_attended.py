"""SID, self-introspective decoding: a stream of the least attended image keys is taken off (Huo et al., ICLR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.contrasts.least_image_keys import LeastImageKeys
from vlm_heads.families import Anatomy
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class LeastAttended(Contrast):
    """SID: `(1 + alpha) z - alpha z2`, where the second stream keeps the image keys it attends to least.

    The early layers see the whole picture. From `start` on, the second stream sees the image keys that its last row
    attended to least in the layer before. They are chosen anew for every token.

    Formula:
        a[j]  = mean over heads i of w[start - 1, i, j]   after softmax, in the row that predicts the token
        kept  = the share of the image keys with the lowest a, at least one
        z2    the stream whose rows see no other image key in the layers from start on
        z <- (1 + alpha) * z - alpha * z2   among tokens with p >= bound * max p

    Paper and program:
        The program keeps 50 of LLaVA-1.5's 576 image keys after its second layer; the share is the same for it, and
        fits models with fewer. Its strength is 0.5, because its option for it is not read, and under greedy decoding it
        excludes no token. mode="code" excludes none; take alpha=0.5 with it. The program prunes nothing: as here, keys
        are closed by a mask. A row that sees no key at all is undefined there, and here sees itself.
    """

    name: ClassVar[str] = "sid"
    label: ClassVar[str] = "SID"
    paper: ClassVar[Paper | None] = Paper(
        "Huo et al.",
        "Self-Introspective Decoding: Alleviating Hallucinations for Large Vision-Language Models",
        2025,
        "ICLR",
        "2408.02032",
    )

    alpha: float = option(1.0, at_least=0.0, neutral=0.0, help="strength of the contrast; 0.5 in the authors' program")
    start: int = option(2, at_least=1, help="first layer without the other image keys")
    share: float = option(0.087, at_least=0.0, at_most=1.0, help="of the image keys that stay: 50 of 576")
    mode: Literal["paper", "code"] = option("paper", help='"code" excludes no token')

    def check(self, anatomy: Anatomy) -> None:
        super().check(anatomy)
        LeastImageKeys(self.start, self.share).check(anatomy)

    def second_stream(self, asked: Asked) -> SecondStream:
        return asked.again(edit=LeastImageKeys(self.start, self.share))

    def weights(self, step: int) -> tuple[float, float]:
        return 1.0 + self.alpha, -self.alpha

    def mask(self) -> float:
        return 0.0 if self.mode == "code" else self.bound
