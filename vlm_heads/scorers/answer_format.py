"""AllPath's score by answer format: what each head alone does for true and invented words (Qian et al. 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlm_heads.families import Anatomy
from vlm_heads.scorers.base import Found, Needs, Scorer, empty, sorted_out
from vlm_heads.scorers.example import Decision, Example, case_of
from vlm_heads.scorers.reading import OutputLayer, Seen, projection_matrix, seen_at
from vlm_heads.toolkit.described import Paper

ALL_PATHS = Paper(
    "Qian et al.",
    "Intervene-All-Paths: Unified Mitigation of LVLM Hallucinations across Alignment Formats",
    2025,
    "NeurIPS",
    "2511.17254",
)


@dataclass(frozen=True)
class AnswerFormat(Scorer):
    """AllPath's text score: how far a head alone, added to what enters its layer, raises true words over invented ones.

    Low means a bad head: it raises invented words. The output layer reads the stream without the final norm. True and
    invented words are those of judged captions, or of yes/no questions the right answer and the wrong one. Scores of
    one kind of answer say little about the other, so score on the kind that is asked.

    Formula:
        c[l, i] = log p(token | x[l] + W_O[l, i] A[l, i]) - log p(token | x[l])   p = softmax of the output layer alone
        s[l, i] = mean of c over true tokens - mean of c over invented tokens

    Not established:
        Which token of a word of several counts, and what the wrong token of a question is. Here: the first, and the
        other of yes and no.
    """

    name: ClassVar[str] = "allpath-format"
    label: ClassVar[str] = "AllPath, by format"
    paper: ClassVar[Paper | None] = ALL_PATHS
    needs: ClassVar[Needs] = "judged"
    unit: ClassVar[str] = "nat of log-probability"
    contrasts: ClassVar[bool] = True

    def check(self, anatomy: Anatomy) -> None:
        for layer in anatomy.projections:
            projection_matrix(anatomy, layer)

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        output = OutputLayer(model, anatomy)
        for example in examples:
            case = case_of(model, processor, anatomy, example)
            judged = [one for one in case.decisions if one.token is not None]
            if not judged:
                yield None
                continue
            seen = seen_at(model, anatomy, case.inputs, [one.column for one in judged])
            yield sorted_out(_alone(anatomy, output, seen, judged), [one.right for one in judged])


def _alone(anatomy: Anatomy, output: OutputLayer, seen: Seen, judged: Sequence[Decision]) -> Tensor:
    """Return float32 `[n, L, Hq]`: what each head alone adds to the log-probability of each token."""
    tables = empty(anatomy, len(judged))
    with torch.no_grad():
        for layer, outputs in seen.heads.items():
            matrix = projection_matrix(anatomy, layer)
            slices = matrix.view(len(matrix), anatomy.heads, -1)  # [width, Hq, D]
            written = torch.einsum("nhd,whd->nhw", outputs, slices)
            for number, decision in enumerate(judged):
                before = seen.entering[layer][number]
                said = output.words(torch.cat([before[None], before + written[number]])).float().log_softmax(dim=-1)
                tables[number, layer] = (said[1:, decision.token] - said[0, decision.token]).cpu()
    return tables
