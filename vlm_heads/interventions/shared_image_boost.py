"""Devils in middle layers: image keys rise by what all heads together give them (Jiang et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import image_keys, last_row, row_logits

FIRST, BEYOND = 5 / 32, 18 / 32  # layers 5..17 of 32


@dataclass(frozen=True)
class SharedImageBoost(Intervention):
    """Devils: `z <- z + strength * mean over heads of |z|` on image keys, so that heads agree on where to look.

    It acts on the last prompt row and every decode step, and reads the keys once more. A head whose logit of a key is
    exactly 0 keeps it there, because the edit is applied as a boost in proportion to `|z|`.

    Formula:
        z[l, i, j] <- z[l, i, j] + strength * mean over heads k of |z[l, k, j]|   for image keys j, before softmax
    """

    name: ClassVar[str] = "devils"
    label: ClassVar[str] = "Devils"
    lever: ClassVar[str] = "logits"
    paper: ClassVar[Paper | None] = Paper(
        "Jiang et al.",
        "Devils in Middle Layers of Large Vision-Language Models: Interpreting, Detecting and Mitigating Object "
        "Hallucinations via Attention Lens",
        2025,
        "CVPR",
        "2411.16724",
    )

    strength: float = option(0.5, at_least=0.0, neutral=0.0, help="factor on the mean over heads of |z|")
    layers: Layers = layers_option(paper="5..17 of 32, in proportion")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        return range(round(FIRST * anatomy.depth), max(1, round(BEYOND * anatomy.depth)))

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
            return None
        call.note_all_heads()
        return AttentionPlan(logit_boost=self._boost(call), rows=last_row(call))

    def _boost(self, call: AttentionCall) -> Tensor:
        """Return `[B, Hq, Tk]`: the shared rise over each head's own `|z|`."""
        logits = row_logits(call)
        size = torch.where(image_keys(call)[:, None] & (logits > -torch.inf), logits.abs(), 0.0)
        rise = self.strength * size.mean(dim=1, keepdim=True)
        return torch.where(size > 0.0, rise / size, 0.0)
