"""FLB, first logit boosting: the first step's token logits are added to every later step (Ha et al., CVPR 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_heads.families import Anatomy
from vlm_heads.lenses.base import Lens
from vlm_heads.token_step import TokenStep, implausible
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class FirstLogits(Lens):
    """FLB: `z[t] <- z[t] + gamma * (1 - exp(-rate * t)) * z[0]`, among tokens that step t itself finds plausible.

    The first step has just read the image, and its logits go on reminding of it. They also favour the word that answers
    begin with. The authors find that boosting "The" alone does most of it, so a gain is to be held against the
    controls: the plausibility mask alone, and a bias on the first word.

    Formula:
        z[t]   token logits of step t; t counts the tokens of the answer from 0
        z[t] <- z[t] + gamma * (1 - exp(-rate * t)) * z[0]   among tokens with p[t] >= bound * max p[t]

    Paper and program:
        They agree, as far as the paper is known here, at second hand. The authors compare it with sampling that has no
        plausibility mask. `z[0]` is the model's own, before other logits processors have changed it.
    """

    name: ClassVar[str] = "flb"
    label: ClassVar[str] = "FLB"
    lever: ClassVar[str] = "token logits"
    paper: ClassVar[Paper | None] = Paper(
        "Ha et al.",
        "First Logit Boosting: Visual Grounding Method to Mitigate Object Hallucination in Large Vision-Language "
        "Models",
        2026,
        "CVPR",
        "2604.00455",
    )
    trial: ClassVar[Mapping[str, Any]] = {"gamma": 5.0, "rate": 3.0}

    gamma: float = option(0.3, at_least=0.0, neutral=0.0, help="largest weight of the first step's logits")
    rate: float = option(0.05, at_least=0.0, help="rate per token at which their weight grows towards the largest")
    bound: float = option(
        0.1,
        at_least=0.0,
        at_most=1.0,
        help="tokens less probable than this share of the most probable one are excluded",
    )

    def reads(self, anatomy: Anatomy) -> frozenset[int]:
        return frozenset({anatomy.depth})

    def weigh(self, step: TokenStep) -> Tensor:
        step.note()
        if "first" not in step.memory:
            step.memory["first"] = step.own_logits()
        weight = -self.gamma * torch.expm1(-self.rate * step.said.to(step.logits))
        first: Tensor = step.memory["first"]
        weighed = step.logits + weight[:, None] * first
        return weighed.masked_fill(implausible(step.log_probs(), self.bound), -torch.inf)
