"""SPIN, image-guided head suppression: heads that attend least to the image count less (Sarkar et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from vlm_kernels import CLASS_COUNT, AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit import sensitivity
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import image_keys, last_row, row_logits


@dataclass(frozen=True)
class LowImageHeads(Intervention):
    """SPIN: at every step and layer, multiply the outputs of the heads with the lowest sum of image logits.

    It acts on the last prompt row and every decode step. It chooses anew each time, and for that reads the keys once
    more.

    Formula:
        s[l, i]   = sum over image keys j of z[l, i, j]   logits before softmax, in the row that predicts a token
        low(l)    = the H - floor(kept * H) heads of layer l with the smallest s[l, :]
        A[l, i]  <- factor * A[l, i]   for i in low(l)
    """

    name: ClassVar[str] = "spin"
    label: ClassVar[str] = "SPIN"
    lever: ClassVar[str] = "head gain"
    paper: ClassVar[Paper | None] = Paper(
        "Sarkar et al.",
        "Mitigating Hallucinations in Vision-Language Models through Image-Guided Head Suppression",
        2025,
        "EMNLP",
        "2505.16411",
    )

    factor: float = option(0.08, at_least=0.0, neutral=1.0, help="factor on the outputs of the heads that are not kept")
    kept: float = option(
        0.95, at_least=0.0, at_most=1.0, help="share of a layer's heads that stay as they are, rounded down"
    )
    layers: Layers = layers_option(paper="all")

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
            return None
        low = self._low_heads(call)
        if call.prefill:
            call.tally.note(low)
        gain = call.gains(low, self.factor)
        if call.decoding:
            return AttentionPlan(head_gain=gain)
        # a head gain acts on all rows; the same gain on every class of keys is a head gain on the last row
        return AttentionPlan(class_gain=gain[..., None].repeat(1, 1, CLASS_COUNT), rows=last_row(call))

    def _low_heads(self, call: AttentionCall) -> Tensor:
        """Return bool `[B, Hq]`: the heads to turn down, none in a row without image."""
        logits = row_logits(call)
        seen = image_keys(call)[:, None] & (logits > -torch.inf)
        scores = torch.where(seen, logits, 0.0).sum(dim=-1)
        rows, heads = scores.shape
        count = torch.full((rows,), heads - int(self.kept * heads), device=scores.device)
        return sensitivity.least_aware(scores, count) & call.key_map.has_image[:, None]
