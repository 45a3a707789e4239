"""SPARC: image positions that suddenly draw attention count for more from then on (Jung et al., ICML 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, layers_option, resolve_layers
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import image_keys, over_keys, row_weights

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

READ = 20 / 32  # the layer that tells, of 32


@dataclass(frozen=True)
class ProgressiveValueGain(Intervention):
    """SPARC: values of image positions whose attention rises in one layer are multiplied, again at each rise.

    A rise is told by a layer in the middle and counts in all layers from the next step on. The first two tokens are the
    model's own. What earlier steps attended to is remembered by row, so beams are refused.

    Formula:
        a_t[j] = mean over heads of w[read, i, j]   w: weights, in the row that predicts token t; j: image keys
        m_0 = a_0,   m_t = (1 - memory) * a_t + memory * m_(t-1)
        g_1[j] = 1,  g_(t+1)[j] = gain * g_t[j] where a_t[j] >= (1 + threshold) * m_(t-1)[j], else g_t[j]; t from 1 on
        v[l, i, j] <- g_t[j] * v[l, i, j]   in decode step t, on every layer l and head i

    Paper and program:
        The program writes into the cached values, which is the same. It is written for one row.

    Not established:
        Whether print's memory weighs the past or the present; in the program it weighs the past, 0.1.
    """

    name: ClassVar[str] = "sparc"
    label: ClassVar[str] = "SPARC"
    lever: ClassVar[str] = "value gain"
    paper: ClassVar[Paper | None] = Paper(
        "Jung et al.",
        "Visual Attention Never Fades: Selective Progressive Attention ReCalibration for Detailed Image Captioning in "
        "Multimodal Large Language Models",
        2025,
        "ICML",
        "2502.01419",
    )
    trial: ClassVar[Mapping[str, Any]] = {"threshold": -1.0}
    remembers_steps: ClassVar[bool] = True

    gain: float = option(1.1, at_least=0.0, neutral=1.0, help="factor on the values of a position at each rise")
    threshold: float = option(
        1.5, at_least=-1.0, help="a rise is this much of what was there before; 1.5 for LLaVA-1.5, 4 for LLaVA-NeXT"
    )
    memory: float = option(0.1, at_least=0.0, at_most=1.0, help="share of the past in what a rise is measured against")
    layers: Layers = layers_option(paper="all")

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return super().layers_in(anatomy) | {_reading_layer(anatomy)}

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        acting = resolve_layers(self.layers, anatomy.depth, self.paper_layers(anatomy))
        return nullcontext({"acting": acting, "read": _reading_layer(anatomy)})

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        return range(anatomy.depth)

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
            return None
        call.note_all_heads()
        if not call.prefill:
            self._begin_step(call)
        if call.layer == call.memory["read"]:
            self._read(call)
        gain: Tensor | None = call.memory.get("gain")
        if gain is None or call.layer not in call.memory["acting"]:
            return None
        return AttentionPlan(value_gain=1.0 + over_keys(call, gain - 1.0)[:, None])

    def _begin_step(self, call: AttentionCall) -> None:
        """Let what the step before told count from now on; done in the first layer of a step."""
        if call.memory.get("step") == call.key_map.length:
            return
        call.memory["step"] = call.key_map.length
        rose: Tensor | None = call.memory.pop("rose", None)
        if rose is not None:
            before: Tensor = call.memory.get("gain", torch.ones_like(call.memory["mean"]))
            call.memory["gain"] = torch.where(rose, before * self.gain, before)

    def _read(self, call: AttentionCall) -> None:
        """Note which positions of the prompt rose, and what the next rise is measured against."""
        weights = row_weights(call).mean(dim=1) * image_keys(call)
        keys, length = weights.shape[1], call.key_map.length
        if keys < length:  # a sliding layer holds the last ones
            weights = torch.nn.functional.pad(weights, (length - keys, 0))
        attended = weights[:, : call.key_map.prompt_length]
        if call.prefill or "mean" not in call.memory:  # a question beside an answer has no step before it
            call.memory["mean"] = attended
            return
        mean: Tensor = call.memory["mean"]
        call.memory["rose"] = (mean > 0) & (attended >= (1.0 + self.threshold) * mean)
        call.memory["mean"] = (1.0 - self.memory) * attended + self.memory * mean


def _reading_layer(anatomy: Anatomy) -> int:
    """Return layer 20 of 32, in proportion, or the last one before it that has heads."""
    wanted = min(round(READ * anatomy.depth), anatomy.depth - 1)
    return max((layer for layer in anatomy.attentions if layer <= wanted), default=min(anatomy.attentions))
