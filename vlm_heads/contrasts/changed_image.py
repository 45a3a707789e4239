"""RITUAL: the streams of the image and of a changed one are added (Woo et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from zlib import crc32

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.toolkit.image_changes import random_change
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class ChangedImage(Contrast):
    """RITUAL: `z + weight z(changed image)`, an ensemble and no contrast.

    The change is drawn for each picture: mirrored, flipped, turned, recoloured, blurred or cropped.

    Formula:
        z, z2    log-probabilities of the next token with the image and with the changed image
        z <- z + weight * z2   among tokens with p >= bound * max p
    """

    name: ClassVar[str] = "ritual"
    label: ClassVar[str] = "RITUAL"
    paper: ClassVar[Paper | None] = Paper(
        "Woo et al.",
        "RITUAL: Random Image Transformations as a Universal Anti-hallucination Lever in Large Vision Language Models",
        2024,
        arxiv="2405.17821",
    )
    needs_inputs_alone: ClassVar[bool] = False

    weight: float = option(3.0, at_least=0.0, neutral=0.0, help="weight of the second stream")
    seed: int = option(
        0, help="draws the change, together with the picture: the same picture is changed alike in every batch"
    )

    def second_stream(self, asked: Asked) -> SecondStream:
        changed = [random_change(image, crc32(image.tobytes(), self.seed)) for image in asked.images]
        return SecondStream(asked.model, asked.showing(changed))

    def weights(self, step: int) -> tuple[float, float]:
        return 1.0, self.weight
