"""PAI's second half: the image-free stream is taken off (Liu et al., ECCV 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.papers import PAI


@dataclass(frozen=True)
class ImageFree(Contrast):
    """PAI's contrast: `gamma z - (gamma - 1) z(no image)`; its first half is `pai`.

    Formula:
        z, z2    log-probabilities of the next token with the image and with its tokens deleted
        z <- gamma * z - (gamma - 1) * z2   among tokens with p >= bound * max p
    """

    name: ClassVar[str] = "pai-contrast"
    label: ClassVar[str] = "PAI, 2nd stream"
    paper: ClassVar[Paper | None] = PAI

    gamma: float = option(1.1, at_least=1.0, neutral=1.0, help="strength of the contrast")

    def second_stream(self, asked: Asked) -> SecondStream:
        return asked.without_image()

    def weights(self, step: int) -> tuple[float, float]:
        return self.gamma, 1.0 - self.gamma
