"""LQCD, leading-question contrast: what a leading question would bring is taken off (Zhao et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class LeadingQuestion(Contrast):
    """LQCD: `(1 + alpha) z(the question) - alpha z(the same question, led)`.

    Formula:
        z, z2    log-probabilities of the next token after the prompt, and after the lead and the prompt
        z <- (1 + alpha) * z - alpha * z2   among tokens with p >= bound * max p

    Paper and program:
        The authors turn each question into a leading one by hand; here a text that leads is put before it.
    """

    name: ClassVar[str] = "lqcd"
    label: ClassVar[str] = "LQCD"
    paper: ClassVar[Paper | None] = Paper(
        "Zhao et al.",
        "Towards Analyzing and Mitigating Sycophancy in Large Vision-Language Models",
        2024,
        arxiv="2408.11261",
    )
    needs_inputs_alone: ClassVar[bool] = False

    alpha: float = option(1.0, at_least=0.0, neutral=0.0, help="strength of the contrast")
    lead: str = option(
        "There are several objects in this picture and the answer is Yes.",
        help="put before the prompt in the second stream",
    )

    def second_stream(self, asked: Asked) -> SecondStream:
        return SecondStream(asked.model, asked.asking(self.lead))

    def weights(self, step: int) -> tuple[float, float]:
        return 1.0 + self.alpha, -self.alpha
