"""VCD, visual contrastive decoding: the stream of a noised image is taken off (Leng et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.errors import BadOption
from vlm_heads.toolkit.image_changes import DIFFUSION_STEPS, diffused
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class NoisedImage(Contrast):
    """VCD: `(1 + alpha) z - alpha z(noised image)`.

    Formula:
        x2 = sqrt(a) * x + sqrt(1 - a) * noise   x: pixel values; a: what a diffusion keeps after noise_step steps
        z, z2    log-probabilities of the next token with x and with x2
        z <- (1 + alpha) * z - alpha * z2   among tokens with p >= bound * max p
    """

    name: ClassVar[str] = "vcd"
    label: ClassVar[str] = "VCD"
    paper: ClassVar[Paper | None] = Paper(
        "Leng et al.",
        "Mitigating Object Hallucinations in Large Vision-Language Models through Visual Contrastive Decoding",
        2024,
        "CVPR",
        "2311.16922",
    )

    alpha: float = option(1.0, at_least=0.0, neutral=0.0, help="strength of the contrast")
    noise_step: int = option(
        500, at_least=0, at_most=DIFFUSION_STEPS, help="how far the noise goes, of the diffusion's 1000 steps"
    )
    seed: int = option(0, help="seed of the noise, which is the same for every picture")

    def second_stream(self, asked: Asked) -> SecondStream:
        if "pixel_values" not in asked.inputs:
            raise BadOption("a noised image needs pixel_values in the inputs")
        if asked.inputs.get("pixel_values_videos") is not None:
            raise BadOption("the inputs hold a video, and vcd noises images alone: videos are not looked at")
        noised = diffused(asked.inputs["pixel_values"], self.noise_step, self.seed)
        return SecondStream(asked.model, {**asked.inputs, "pixel_values": noised})

    def weights(self, step: int) -> tuple[float, float]:
        return 1.0 + self.alpha, -self.alpha
