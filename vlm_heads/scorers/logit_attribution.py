"""Direct logit attribution: what a head writes into the stream, read as words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlm_heads.families import Anatomy
from vlm_heads.scorers.base import Found, Needs, Scorer, empty, sorted_out
from vlm_heads.scorers.example import Case, Example, case_of
from vlm_heads.scorers.reading import OutputLayer, Seen, projection_matrix, seen_at, told


@dataclass(frozen=True)
class LogitAttribution(Scorer):
    """What a head adds directly to the logit of the token that the model decides for, over what it adds to all tokens.

    High means that the head says the token itself; no later layer has a part in it. On pictures alone it is the token
    that the model says next. On judged samples, what it adds to invented words is taken off: high means that it tells
    what is there.

    Formula:
        s[l, i] = < W_O[l, i] A[l, i], g * (u(token) - mean over tokens u) / rms >
        g the final norm's weight, rms of the last layer's state, held; u the rows of the output layer
    """

    name: ClassVar[str] = "logits"
    label: ClassVar[str] = "logit attribution"
    needs: ClassVar[Needs] = "pictures"
    unit: ClassVar[str] = "logit"

    def check(self, anatomy: Anatomy) -> None:
        for layer in anatomy.projections:
            projection_matrix(anatomy, layer)

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        output = OutputLayer(model, anatomy)
        mean = output.matrix.float().mean(dim=0)
        for case in (case_of(model, processor, anatomy, example) for example in examples):
            if not case.decisions:
                yield None
                continue
            seen = seen_at(model, anatomy, case.inputs, [one.column for one in case.decisions])
            words = output.matrix[decided(case, output, seen)].float() - mean
            tables = direct(anatomy, seen, output.through_norm(words.to(seen.last.dtype), seen.last))
            yield sorted_out(tables, [one.right for one in case.decisions])


def decided(case: Case, output: OutputLayer, seen: Seen) -> Tensor:
    """Return int64 `[n]`: the token of each decision; where it is the model's own, the likeliest."""
    own = output.log_chances(seen.last).argmax(dim=-1).tolist()
    tokens = [
        one if decision.token is None else decision.token for one, decision in zip(own, case.decisions, strict=True)
    ]
    return torch.tensor(tokens, device=output.matrix.device)


def direct(anatomy: Anatomy, seen: Seen, directions: Tensor) -> Tensor:
    """Return float32 `[n, L, Hq]`: each head's product with a direction `[n, width]` of the residual stream."""
    tables = empty(anatomy, len(directions))
    for layer, outputs in seen.heads.items():
        tables[:, layer] = told(anatomy, layer, outputs, directions).T
    return tables
