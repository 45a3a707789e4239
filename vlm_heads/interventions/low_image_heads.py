"""SPIN, image-guided head suppression: heads that attend least to the image count less (Sarkar et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from vlm_kernels import CLASS_COUNT, AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit import sensitivity
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers
from vlm_heads.toolkit.options import require_number
from vlm_heads.toolkit.row_attention import image_keys, last_row, require_image_keys, row_logits

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile


@dataclass(frozen=True)
class LowImageHeads(Intervention):
    """SPIN: at every step and layer, multiply the outputs of the heads with the lowest sum of image logits.

    Acts on the last prompt row and every decode step; the choice is made anew each time, and reads the keys once more.

    Attributes:
        factor: on the outputs of the heads that are not kept; 1 changes nothing.
        kept: share of a layer's heads that stay as they are, rounded down to a number of heads.
        layers: "paper" (all), another layer set, or indices.

    Raises:
        BadOption: if a number is out of its range.
    """

    name: ClassVar[str] = "spin"
    neutral: ClassVar[Mapping[str, Any]] = {"factor": 1.0}

    factor: float = 0.08
    kept: float = 0.95
    layers: Layers = "paper"

    def __post_init__(self) -> None:
        require_number("factor", self.factor, at_least=0.0)
        require_number("kept", self.kept, at_least=0.0, at_most=1.0)

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return resolve_layers(self.layers, anatomy.depth, range(anatomy.depth)) & anatomy.attentions.keys()

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        require_image_keys(anatomy)

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if not call.key_map.any_image or self.factor == 1.0:
            return None
        low = self._low_heads(call)
        if call.prefill:
            call.tally.note(low)
        gain = call.gains(low, self.factor)
        if call.query.shape[2] == 1:
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
