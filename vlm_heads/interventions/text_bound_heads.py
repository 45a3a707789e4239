"""AD-HH: heads that lean on the text written so far lose sight of it (Yang et al., ICLR 2025)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass

from vlm_heads.blind import BlindMode
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit import sensitivity
from vlm_heads.toolkit.head_choice import head_awareness
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers
from vlm_heads.toolkit.options import require_number
from vlm_heads.toolkit.row_attention import last_row, row_weights

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

HeadList = str | Sequence[tuple[int, int]]

_PER_LAYER = 20 / 1024  # the paper lists about 20 of LLaVA-1.5-7B's 32 layers of 32 heads
_PAIR = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class TextBoundHeads(Intervention):
    """AD-HH: in listed heads, weight on generated text is set to zero at steps where it exceeds the threshold.

    What the other keys weigh stays as it is; nothing is renormalised.

    Attributes:
        heads: (layer, head) pairs, or "14.3+17.0" for layer 14, head 3 and layer 17, head 0; `attribute_heads` finds
            them on a model at hand. "least-aware" needs no list and is ours: in each layer one head in fifty, one at
            least, with the lowest VHD, by the sample's own image or by the profile given to `attach`.
        threshold: mass on generated text above which it is dropped; at 1 nothing ever is.
        layers: restricts the list.

    Raises:
        BadOption: if the list cannot be read or names a head that is not in the model.
    """

    name: ClassVar[str] = "adhh"
    neutral: ClassVar[Mapping[str, Any]] = {"threshold": 1.0}
    trial: ClassVar[Mapping[str, Any]] = {"threshold": 0.0}

    heads: HeadList = "least-aware"
    threshold: float = 0.4
    layers: Layers = "all"

    def __post_init__(self) -> None:
        require_number("threshold", self.threshold, at_least=0.0, at_most=1.0)
        self._listed()

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        chosen = resolve_layers(self.layers, anatomy.depth, range(anatomy.depth)) & anatomy.attentions.keys()
        listed = self._listed()
        if listed is None:
            return chosen
        for layer, head in listed:
            if layer not in anatomy.attentions or head >= anatomy.heads:
                raise BadOption(
                    f"heads={self.heads!r}: layer {layer}, head {head} is not in a model with {anatomy.depth} layers "
                    f"of {anatomy.heads} heads"
                )
        return chosen & {layer for layer, _ in listed}

    def image_free(self, profile: HeadProfile | None) -> BlindMode | None:
        return "plain" if profile is None and self.heads == "least-aware" else None

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.threshold == 1.0 or not call.key_map.any_image:
            return None
        if call.prefill:
            call.memory[call.layer] = self._on_layer(call) & call.key_map.has_image[:, None]
            return None  # nothing is generated yet
        generated = call.key_class() == KeyClass.GENERATED
        mass = (row_weights(call) * generated[:, None]).sum(dim=-1)
        dropped = (mass > self.threshold) & call.memory[call.layer]
        call.tally.note_step(mass * dropped)
        gain = call.query.new_ones((*dropped.shape, CLASS_COUNT))
        gain[..., KeyClass.GENERATED] = call.gains(dropped, 0.0)
        return AttentionPlan(class_gain=gain, rows=last_row(call))

    def _on_layer(self, call: AttentionCall) -> Tensor:
        """Return bool `[B or 1, Hq]`: this layer's heads on the list."""
        heads, listed = call.query.shape[1], self._listed()
        if listed is not None:
            marks = [(call.layer, head) in listed for head in range(heads)]
            return torch.tensor([marks], device=call.query.device)
        awareness, _ = head_awareness(call)
        count = torch.full(awareness.shape[:1], max(1, round(_PER_LAYER * heads)), device=awareness.device)
        return sensitivity.least_aware(awareness, count)

    def _listed(self) -> frozenset[tuple[int, int]] | None:
        """Return the pairs given, None where the sample chooses."""
        if self.heads == "least-aware":
            return None
        if not isinstance(self.heads, str):
            pairs = frozenset((int(layer), int(head)) for layer, head in self.heads)
        else:
            found = [_PAIR.fullmatch(piece.strip()) for piece in self.heads.split("+")]
            pairs = frozenset((int(one[1]), int(one[2])) for one in found if one is not None)
            if len(pairs) < len(found):
                pairs = frozenset()
        if not pairs:
            raise BadOption(f"heads={self.heads!r}: least-aware, or layer.head pairs as in 14.3+17.0, are needed")
        return pairs
