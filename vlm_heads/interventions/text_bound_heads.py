"""AD-HH: heads that lean on the text written so far lose sight of it (Yang et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass

from vlm_heads.blind import BlindMode
from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit import sensitivity
from vlm_heads.toolkit.head_choice import head_awareness
from vlm_heads.toolkit.head_list import HeadList, HeadListForm, layers_of_heads
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import last_row, row_weights

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

_PER_LAYER = 20 / 1024  # the paper lists about 20 of LLaVA-1.5-7B's 32 layers of 32 heads


@dataclass(frozen=True)
class TextBoundHeads(Intervention):
    """AD-HH: in listed heads, weight on generated text is set to zero at steps where it exceeds the threshold.

    The weights of other keys stay as they are; nothing is renormalised. `attribute_heads` finds a list. It acts on text
    that was generated, so it cannot change the first token.

    Formula:
        m[l, i]    = sum over generated keys j of w[l, i, j]   weights after softmax, in the row that predicts a token
        w[l, i, j] <- 0   for generated keys j, where head i is listed and m[l, i] > threshold

    Paper and program:
        The authors list about twenty heads of LLaVA-1.5-7B. Heads differ from model to model, so the default needs no
        list; it is ours.
    """

    name: ClassVar[str] = "adhh"
    label: ClassVar[str] = "AD-HH"
    lever: ClassVar[str] = "class gain"
    paper: ClassVar[Paper | None] = Paper(
        "Yang et al.",
        "Mitigating Hallucination in Large Vision-Language Models via Modular Attribution and Intervention",
        2025,
        "ICLR",
    )
    trial: ClassVar[Mapping[str, Any]] = {"threshold": 0.0}
    needs_image_keys: ClassVar[bool] = False

    heads: HeadList = option(
        "least-aware",
        form=HeadListForm("least-aware"),
        help='(layer, head) pairs, as 14.3+17.0 for layer 14, head 3 and layer 17, head 0; "least-aware" needs no list '
        "and is ours: in each layer one head in fifty, one at least, with the lowest VHD",
    )
    threshold: float = option(
        0.4, at_least=0.0, at_most=1.0, neutral=1.0, help="mass on generated text above which it is dropped"
    )
    layers: Layers = layers_option("all")

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        chosen, listed = super().layers_in(anatomy), self._listed(anatomy)
        return chosen if listed is None else chosen & listed.keys()

    def image_free(self, profile: HeadProfile | None) -> BlindMode | None:
        return "plain" if profile is None and self.heads == "least-aware" else None

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        return nullcontext({"listed": self._listed(anatomy)})

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
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
        heads, listed = call.query.shape[1], call.memory["listed"]
        if listed is not None:
            marks = [head in listed[call.layer] for head in range(heads)]
            return torch.tensor([marks], device=call.query.device)
        awareness, _ = head_awareness(call)
        count = torch.full(awareness.shape[:1], max(1, round(_PER_LAYER * heads)), device=awareness.device)
        return sensitivity.least_aware(awareness, count)

    def _listed(self, anatomy: Anatomy) -> dict[int, frozenset[int]] | None:
        """Return layer -> heads of the list given, None where the sample chooses."""
        return None if isinstance(self.heads, str) else layers_of_heads(anatomy, self.heads, f"heads={self.heads!r}")
