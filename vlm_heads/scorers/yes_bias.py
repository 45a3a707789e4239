"""Negative heads: which heads say no whatever the picture shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from vlm_heads.families import Anatomy
from vlm_heads.scorers.base import Found, Needs, Scorer
from vlm_heads.scorers.example import Example, case_of, yes_and_no
from vlm_heads.scorers.logit_attribution import direct
from vlm_heads.scorers.reading import OutputLayer, projection_matrix, seen_at


@dataclass(frozen=True)
class YesBias(Scorer):
    """What a head adds directly to no over yes, the mean of questions about present objects and about absent ones.

    High means that the head says no whatever is asked, a negative head; below zero it says yes whatever is asked. Both
    kinds of question count the same, so what the head knows of the picture cancels. Ours. The negative attention score
    of Yu et al. (NAACL 2025) measures heads' attention to the word no in the instruction; POPE's questions have none.

    Formula:
        d[l, i] = < W_O[l, i] A[l, i], g * (u(No) - u(Yes)) / rms >   at the prompt's last position; see `logits`
        s[l, i] = (mean of d over absent objects + mean of d over present objects) / 2
    """

    name: ClassVar[str] = "negative"
    label: ClassVar[str] = "negative heads"
    needs: ClassVar[Needs] = "questions"
    unit: ClassVar[str] = "logit of no over yes"
    contrasts: ClassVar[bool] = True

    def check(self, anatomy: Anatomy) -> None:
        for layer in anatomy.projections:
            projection_matrix(anatomy, layer)

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        output = OutputLayer(model, anatomy)
        for example in examples:
            if example.truth is None:
                yield None
                continue
            yes, no = yes_and_no(processor.tokenizer)
            case = case_of(model, processor, anatomy, example)
            seen = seen_at(model, anatomy, case.inputs, [case.begin - 1])
            towards = (output.matrix[no] - output.matrix[yes])[None]
            half = direct(anatomy, seen, output.through_norm(towards, seen.last)) / 2
            # right less wrong is the sum of both means' halves
            yield Found(half[:0], -half) if example.truth else Found(half)
