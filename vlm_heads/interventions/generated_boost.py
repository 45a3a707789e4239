"""IAT, increase attention to generated text: what is written so far counts for more (Zhong et al., CVPR 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from vlm_kernels import AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, layers_option, middle_layers
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.papers import ADAIAT
from vlm_heads.toolkit.row_attention import generated_keys, last_row


@dataclass(frozen=True)
class GeneratedBoost(Intervention):
    """IAT: `z <- z + strength * |z|` on the keys of generated text, in every decode step.

    It acts on text that was generated, so it cannot change the first token. AdaIAT, the paper's second form, is
    `adaiat`.

    Formula:
        z[l, i, j]    attention logit of head i on layer l for key j, before softmax, in the row that predicts a token
        z[l, i, j] <- z[l, i, j] + strength * |z[l, i, j]|   for generated keys j

    Not established:
        Whether print and program disagree; the program was read, and the layers and the strength are its own.
    """

    name: ClassVar[str] = "iat"
    label: ClassVar[str] = "IAT"
    lever: ClassVar[str] = "logits"
    paper: ClassVar[Paper | None] = ADAIAT
    needs_image_keys: ClassVar[bool] = False

    strength: float = option(0.8, at_least=0.0, neutral=0.0, help="factor on |z|")
    layers: Layers = layers_option(paper="5..17 of 32, in proportion")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        return middle_layers(anatomy.depth)

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
            return None
        if call.prefill:
            call.note_all_heads()
            return None  # nothing is generated yet
        return AttentionPlan(logit_boost=call.once_per_step(self._boost), rows=last_row(call))

    def _boost(self, call: AttentionCall) -> Tensor:
        """Return the boost `[B, 1, Tk]`."""
        return generated_keys(call)[:, None].float() * self.strength
