"""ILVAD: a first pass finds the visual evidence, and the answer attends to it and to the text that rests on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.evidence_map import EvidencePass, by_half, cut_off, differ, scaled
from vlm_heads.toolkit.first_pass import FirstPass
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import image_keys, last_row, over_keys, row_weights, rows_weights
from vlm_heads.toolkit.text_scores import TextScores, text_after_image

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

_FIRST, _LAST, _OF = 5, 25, 32  # layers of LLaVA-1.5-7B for captions
_EPSILON = 1e-8


@dataclass(frozen=True)
class EvidenceAttention(Intervention):
    """ILVAD: attend more to visual evidence, and to text in the measure in which it rests on it.

    A first pass of ten tokens shows where layers begin to look at the image. Where many do, there is evidence. In the
    answer, on the row that predicts a token, the half of the heads that look at the evidence most look at it more. The
    half that reads most of the text after the image reads each token by how much it looked at the evidence.

    Formula:
        pass 1   A[l, j] = mean of w over the tokens said, and over the half of the heads with most weight on the image
                 b[l, j] = 1 where A[l, j] > threshold * mean of A[l, :] over the image, 0 elsewhere
                 m[j]    = sum over layers of max(b[l, j] - b[l - 1, j], 0), where the mean of A over layers is above
                           its mean over the image; cut off at 3 standard deviations, scaled to 0..1
        pass 2   r[l, i] = sum_j w[l, i, j] m[j] / sum_j w[l, i, j]   over image keys j
                 good(l) = the half of the heads with the highest r[l, :]
                 g[t]    = sum over layers, and mean over good(l), of sum_j w[l, i, j] m[j]   in the row of token t
                 s[t]    = g[t] cut off at 3 standard deviations, scaled to 0..1 over the text after the image
                 w[l, i, j] <- w[l, i, j] * exp(strength * m[j])   for image keys j and heads i in good(l)
                 w[l, i, t] <- w[l, i, t] * (s[t] + floor)   for text t after the image, in the half of the heads with
                           most weight on it; then each row is divided by its sum

    Paper and program:
        A generated token has the score of the row that predicted it, and a token of the prompt its own row's; while the
        prompt runs, scores are those of the layers so far. So it is in the program, where the prompt's last token has
        the score 0, and where each layer that is edited cuts the kept scores off anew, so that they shrink.
        `mode=paper` gives the last token its own row's score and cuts a copy; `mode=code` does as the program. The
        program divides by zero where all scores are the same or the first pass is one token long; here nothing is
        changed then. Print sets layers for 32: captions take 5 to 25 and floor 0.3, yes/no questions 0 to 30 and 1.
    """

    name: ClassVar[str] = "ilvad"
    label: ClassVar[str] = "ILVAD"
    lever: ClassVar[str] = "key weight"
    needs: ClassVar[tuple[str, ...]] = ("a first pass of 10 tokens",)
    paper: ClassVar[Paper | None] = Paper(
        "Xie et al.",
        "Finding the Correct Visual Evidence Without Forgetting: Mitigating Hallucination in LVLMs via Inter-Layer "
        "Visual Attention Discrepancy",
        2026,
        "ICML",
        "2605.20965",
    )
    trial: ClassVar[Mapping[str, Any]] = {"threshold": 1.0}  # three layers seldom see five times the mean

    strength: float = option(5.0, at_least=0.0, neutral=0.0, help="how much more evidence counts; the paper takes 5")
    floor: float | Literal["off"] = option(
        0.3, at_least=0.0, neutral="off", help="added to the scores of text; off leaves text alone"
    )
    threshold: float = option(
        5.0, at_least=0.0, help="a layer looks at a key whose weight is above this many times the mean over the image"
    )
    tokens: int = option(10, at_least=2, help="tokens of the first pass")
    mode: Literal["paper", "code"] = option("paper", help="where paper and program disagree")
    layers: Layers = layers_option(paper="5 to 25 of 32, in proportion")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        first, last = (round(edge / _OF * anatomy.depth) for edge in (_FIRST, _LAST))
        return range(first, min(anatomy.depth, max(last, first) + 1))

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        super().layers_in(anatomy)  # refuses what does not fit; scores are read on every layer
        return frozenset(anatomy.attentions)

    def first_pass(self, anatomy: Anatomy) -> FirstPass | None:
        return None if self.changes_nothing else EvidencePass(self.tokens, self.threshold)

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        ends = (min(anatomy.attentions), max(anatomy.attentions))
        return nullcontext({"edited": super().layers_in(anatomy), "ends": ends})

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
            return None
        if "evidence" not in call.memory:
            raise UnsupportedGeneration(
                f"{self.name} reads a first pass, and that is made when generate() is called: call model.generate(...)"
            )
        first, _ = call.memory["ends"]
        before: TextScores | None = call.memory.get("text")
        text = TextScores.of_forward(call, before) if call.layer == first or before is None else before
        evidence, image = over_keys(call, call.memory["evidence"]), image_keys(call)
        looked = _looked(rows_weights(call, text.first), evidence, image)
        text = text.plus(call, looked, own=self.mode == "paper")
        plan = None
        if call.layer in call.memory["edited"]:
            values, scored = text.of_keys(call)
            plan = AttentionPlan(key_weight=self._weight(call, evidence, values, scored), rows=last_row(call))
            text = text.with_values(call, cut_off(values, scored)) if self.mode == "code" else text
        call.memory["text"] = text
        return plan

    def _weight(self, call: AttentionCall, evidence: Tensor, values: Tensor, scored: Tensor) -> Tensor:
        """Return how many times each key counts `[B, Hq, Tk]` in the row that predicts a token."""
        weights = row_weights(call)
        good = by_half(_share(weights, evidence, image_keys(call)))
        active = evidence.any(dim=1)
        if call.prefill:
            call.tally.note(good & active[:, None])
        times = torch.where(good[..., None], (self.strength * evidence).exp()[:, None], 1.0)
        if not isinstance(self.floor, str):
            reading = by_half((weights * text_after_image(call)[:, None]).sum(dim=-1))
            told = torch.where(
                scored & differ(values, scored), scaled(values, cut_off(values, scored), scored) + self.floor, 1.0
            )
            times = times * torch.where(reading[..., None], told[:, None], 1.0)
        return torch.where(active[:, None, None], times, 1.0)


def _share(weights: Tensor, evidence: Tensor, image: Tensor) -> Tensor:
    """Return `[B, Hq]`: the share of a row's image weights `[B, Hq, Tk]` that lies on evidence `[B, Tk]`."""
    seen = weights * image[:, None]
    return (seen * evidence[:, None]).sum(dim=-1) / (seen.sum(dim=-1) + _EPSILON)


def _looked(weights: Tensor, evidence: Tensor, image: Tensor) -> Tensor:
    """Return `[B, R]`: how much the half of the heads that look at evidence most looks at it, in each row.

    Args:
        weights: `[B, Hq, R, Tk]`.
        evidence: `[B, Tk]`.
        image: bool `[B, Tk]`.
    """
    batch, _, rows, _ = weights.shape
    each = weights.transpose(1, 2).flatten(0, 1)
    found, seen = (one.repeat_interleave(rows, dim=0) for one in (evidence, image))
    good = by_half(_share(each, found, seen))
    looked = ((each * found[:, None]).sum(dim=-1) * good).sum(dim=1) / good.sum(dim=1)
    return looked.view(batch, rows)
