"""VAF of ClearSight: fusing layers read the image louder and the system prompt softer (Yin et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan, KeyClass

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers
from vlm_heads.toolkit.options import require_number
from vlm_heads.toolkit.row_attention import require_image_keys, text_after_image

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

FIRST, BEYOND = 9 / 32, 15 / 32  # layers 9..14 of 32
_SYSTEM = 5  # a key class of our own: text before the image


@dataclass(frozen=True)
class VisualFusion(Intervention):
    """VAF: logits of image keys and of the text before the image are multiplied, in all rows after the image.

    A factor, not a boost: a negative logit falls where a positive one rises.

    Attributes:
        image: factor on the logits of image keys.
        system: factor on the logits of the keys before the image.
        layers: "paper" (9..14 of 32, in proportion), another layer set, or indices.

    Raises:
        BadOption: if a factor is negative or not finite.
    """

    name: ClassVar[str] = "vaf"
    neutral: ClassVar[Mapping[str, Any]] = {"image": 1.0, "system": 1.0}

    image: float = 1.15
    system: float = 0.95
    layers: Layers = "paper"

    def __post_init__(self) -> None:
        require_number("image", self.image, at_least=0.0)
        require_number("system", self.system, at_least=0.0)

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        first = round(FIRST * anatomy.depth)
        fusing = range(first, max(first + 1, round(BEYOND * anatomy.depth)))
        return resolve_layers(self.layers, anatomy.depth, fusing) & anatomy.attentions.keys()

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        require_image_keys(anatomy)

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if not call.key_map.any_image or self.image == self.system == 1.0:
            return None
        if call.prefill:
            call.tally.note(call.key_map.has_image[:, None].expand(call.query.shape[:2]))
        return AttentionPlan(logit_factor=self._factor(call), rows=text_after_image(call))

    def _factor(self, call: AttentionCall) -> Tensor:
        """Return the factor `[B, 1, Tk]`, made once per step for all layers with as many keys."""
        keys = call.key.shape[2]
        known: Tensor | None = call.memory.get("factor")
        if known is None or known.shape[-1] != keys:
            classes = call.key_map.seen_by(keys, self._prompt(call))
            factor = torch.ones(classes.shape, device=classes.device)
            factor[classes == KeyClass.IMAGE] = self.image
            factor[classes == _SYSTEM] = self.system
            known = call.memory["factor"] = factor[:, None]
        return known

    def _prompt(self, call: AttentionCall) -> Tensor:
        """Return the prompt's classes int8 `[B, T]` with text before the image told from text after it."""
        known: Tensor | None = call.memory.get("prompt")
        if known is None:
            known = call.key_map.classes.clone()
            before = (known == KeyClass.IMAGE).cumsum(dim=1) == 0
            known[before & (known == KeyClass.TEXT) & call.key_map.has_image[:, None]] = _SYSTEM
            call.memory["prompt"] = known
        return known
