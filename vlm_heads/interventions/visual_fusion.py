"""VAF of ClearSight: fusing layers read the image louder and the system prompt softer (Yin et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan, KeyClass

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import text_after_image

FIRST, BEYOND = 9 / 32, 15 / 32  # layers 9..14 of 32
_SYSTEM = 5  # a key class of our own: text before the image


@dataclass(frozen=True)
class VisualFusion(Intervention):
    """VAF: logits of image keys and of the text before the image are multiplied, in all rows after the image.

    A factor is no boost: a negative logit falls where a positive one rises.

    Formula:
        z[l, i, j] <- image * z[l, i, j]    for image keys j, before softmax
        z[l, i, j] <- system * z[l, i, j]   for text keys j before the image
    """

    name: ClassVar[str] = "vaf"
    label: ClassVar[str] = "ClearSight"
    lever: ClassVar[str] = "logits"
    paper: ClassVar[Paper | None] = Paper(
        "Yin et al.",
        "ClearSight: Visual Signal Enhancement for Object Hallucination Mitigation in Multimodal Large Language Models",
        2025,
        "CVPR",
        "2503.13107",
    )

    image: float = option(1.15, at_least=0.0, neutral=1.0, help="factor on the logits of image keys")
    system: float = option(0.95, at_least=0.0, neutral=1.0, help="factor on the logits of the keys before the image")
    layers: Layers = layers_option(paper="9..14 of 32, in proportion")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        first = round(FIRST * anatomy.depth)
        return range(first, max(first + 1, round(BEYOND * anatomy.depth)))

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
            return None
        call.note_all_heads()
        return AttentionPlan(logit_factor=call.once_per_step(self._factor), rows=text_after_image(call))

    def _factor(self, call: AttentionCall) -> Tensor:
        """Return the factor `[B, 1, Tk]`."""
        classes = call.key_map.seen_by(call.key.shape[2], self._prompt(call))
        factor = torch.ones(classes.shape, device=classes.device)
        factor[classes == KeyClass.IMAGE] = self.image
        factor[classes == _SYSTEM] = self.system
        return factor[:, None]

    def _prompt(self, call: AttentionCall) -> Tensor:
        """Return the prompt's classes int8 `[B, T]` with text before the image told from text after it."""
        known: Tensor | None = call.memory.get("prompt")
        if known is None:
            known = call.key_map.classes.clone()
            before = (known == KeyClass.IMAGE).cumsum(dim=1) == 0
            known[before & (known == KeyClass.TEXT) & call.key_map.has_image[:, None]] = _SYSTEM
            call.memory["prompt"] = known
        return known
