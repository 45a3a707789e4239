"""ICD, instruction contrastive decoding: a disturbing instruction's stream is taken off (Wang et al., ACL 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class DisturbedPrompt(Contrast):
    """ICD: `(1 + alpha) z - alpha z(disturbing instruction)`.

    Formula:
        z, z2    log-probabilities of the next token after the prompt, and after instruction and prompt
        z <- (1 + alpha) * z - alpha * z2   among tokens with p >= bound * max p
    """

    name: ClassVar[str] = "icd"
    label: ClassVar[str] = "ICD"
    paper: ClassVar[Paper | None] = Paper(
        "Wang et al.",
        "Mitigating Hallucinations in Large Vision-Language Models with Instruction Contrastive Decoding",
        2024,
        "ACL",
        "2403.18715",
    )
    needs_inputs_alone: ClassVar[bool] = False

    alpha: float = option(1.0, at_least=0.0, neutral=0.0, help="strength of the contrast")
    instruction: str = option(
        "You are a confused object detector.",
        help="put before the prompt in the second stream; a model that does not know its words is disturbed by that "
        "instead",
    )

    def second_stream(self, asked: Asked) -> SecondStream:
        return SecondStream(asked.model, asked.asking(self.instruction))

    def weights(self, step: int) -> tuple[float, float]:
        return 1.0 + self.alpha, -self.alpha
