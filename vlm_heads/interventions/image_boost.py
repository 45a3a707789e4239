"""PAI, pay attention to image: image keys get higher logits where a token is predicted (Liu et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from vlm_kernels import AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers
from vlm_heads.toolkit.options import require_number
from vlm_heads.toolkit.row_attention import image_keys, last_row, require_image_keys

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile


@dataclass(frozen=True)
class ImageBoost(Intervention):
    """PAI: `z <- z + strength * |z|` on image keys, in the last prompt row and every decode step.

    The method's second half, a contrast with the image-free stream, is `contrast.image_free`.

    Attributes:
        strength: 0.5 in print, 0.2 in the authors' program; 0 changes nothing.
        layers: "paper" (all but the first two), another layer set, or indices.

    Raises:
        BadOption: if the strength is negative or not finite.
    """

    name: ClassVar[str] = "pai"
    neutral: ClassVar[Mapping[str, Any]] = {"strength": 0.0}

    strength: float = 0.5
    layers: Layers = "paper"

    def __post_init__(self) -> None:
        require_number("strength", self.strength, at_least=0.0)

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return resolve_layers(self.layers, anatomy.depth, range(2, anatomy.depth)) & anatomy.attentions.keys()

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        require_image_keys(anatomy)

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if not call.key_map.any_image or self.strength == 0.0:
            return None
        if call.prefill:
            call.tally.note(call.key_map.has_image[:, None].expand(call.query.shape[:2]))
        return AttentionPlan(logit_boost=self._boost(call), rows=last_row(call))

    def _boost(self, call: AttentionCall) -> Tensor:
        """Return the boost `[B, 1, Tk]`, made once per step for all layers with as many keys."""
        keys = call.key.shape[2]
        known: Tensor | None = call.memory.get("boost")
        if known is None or known.shape[-1] != keys:
            known = call.memory["boost"] = image_keys(call)[:, None].float() * self.strength
        return known
