"""PAI, pay attention to image: image keys get higher logits where a token is predicted (Liu et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from vlm_kernels import AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.papers import PAI
from vlm_heads.toolkit.row_attention import image_keys, last_row


@dataclass(frozen=True)
class ImageBoost(Intervention):
    """PAI: `z <- z + strength * |z|` on image keys, in the last prompt row and every decode step.

    The method's second half, a contrast with the image-free stream, is `pai-contrast`.

    Formula:
        z[l, i, j]    attention logit of head i on layer l for key j, before softmax, in the row that predicts a token
        z[l, i, j] <- z[l, i, j] + strength * |z[l, i, j]|   for image keys j

    Paper and program:
        The strength is 0.5 in print and 0.2 in the authors' program; the default is print's.
    """

    name: ClassVar[str] = "pai"
    label: ClassVar[str] = "PAI"
    lever: ClassVar[str] = "logits"
    paper: ClassVar[Paper | None] = PAI

    strength: float = option(0.5, at_least=0.0, neutral=0.0, help="factor on |z|; 0.2 in the authors' program")
    layers: Layers = layers_option(paper="all but the first two")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        return range(2, anatomy.depth)

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
            return None
        call.note_all_heads()
        return AttentionPlan(logit_boost=call.once_per_step(self._boost), rows=last_row(call))

    def _boost(self, call: AttentionCall) -> Tensor:
        """Return the boost `[B, 1, Tk]`."""
        return image_keys(call)[:, None].float() * self.strength
