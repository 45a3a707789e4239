"""Devils in middle layers: image keys rise by what all heads together give them (Jiang et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers
from vlm_heads.toolkit.options import require_number
from vlm_heads.toolkit.row_attention import image_keys, last_row, require_image_keys, row_logits

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

FIRST, BEYOND = 5 / 32, 18 / 32  # layers 5..17 of 32


@dataclass(frozen=True)
class SharedImageBoost(Intervention):
    """Devils: `z <- z + strength * mean over heads of |z|` on image keys, so that heads agree on where to look.

    Acts on the last prompt row and every decode step, and reads the keys once more. A head whose logit of a key is
    exactly 0 keeps it there, because the edit is carried out as a boost in proportion to `|z|`.

    Attributes:
        strength: 0 changes nothing.
        layers: "paper" (5..17 of 32, in proportion), another layer set, or indices.

    Raises:
        BadOption: if the strength is negative or not finite.
    """

    name: ClassVar[str] = "devils"
    neutral: ClassVar[Mapping[str, Any]] = {"strength": 0.0}

    strength: float = 0.5
    layers: Layers = "paper"

    def __post_init__(self) -> None:
        require_number("strength", self.strength, at_least=0.0)

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        middle = range(round(FIRST * anatomy.depth), max(1, round(BEYOND * anatomy.depth)))
        return resolve_layers(self.layers, anatomy.depth, middle) & anatomy.attentions.keys()

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        require_image_keys(anatomy)

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if not call.key_map.any_image or self.strength == 0.0:
            return None
        if call.prefill:
            call.tally.note(call.key_map.has_image[:, None].expand(call.query.shape[:2]))
        return AttentionPlan(logit_boost=self._boost(call), rows=last_row(call))

    def _boost(self, call: AttentionCall) -> Tensor:
        """Return `[B, Hq, Tk]`: the shared rise over each head's own `|z|`."""
        logits = row_logits(call)
        size = torch.where(image_keys(call)[:, None] & (logits > -torch.inf), logits.abs(), 0.0)
        rise = self.strength * size.mean(dim=1, keepdim=True)
        return torch.where(size > 0.0, rise / size, 0.0)
