"""MemVR: where a middle layer is unsure, the next MLP is given the image once more (Zou et al., ICML 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.families import Anatomy
from vlm_heads.steering.base import Site, Steering
from vlm_heads.stream_call import StreamCall
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option

_CANDIDATES = 10


@dataclass(frozen=True)
class ImageRefresh(Steering):
    """MemVR: mix `x V^T V` into the first MLP before which the model is unsure, V being the image's embeddings.

    The image's positions act as a second MLP: its keys and its values. In each forward at most one layer of a row is
    refreshed. What a layer would say is read before every layer in question, and that is what it costs.

    Formula:
        u[l]   = - sum over the 10 most probable tokens of p log p / log 10   p: their probabilities, which sum to 1
                 among them, from the last norm and the head over what enters layer l where the next token is predicted
        l      = the first layer of `layers` with u[l] > threshold
        a      = x V^T V               x: what enters the MLP of layer l; V: the image positions that enter layer 0
        f     <- (1 - ratio) * f + ratio * mean|f| / mean|a| * a   f: what that MLP gives; means over the hidden state

    Paper and program:
        The program is followed; the paper's form is not established. It takes both means over all positions of a
        forward, and here each position has its own, so that padding makes no difference; a decode step is the same. Its
        ratio is 0.12 for MME and 0.31 for CHAIR. It refreshes layers 7 to 16 of 32; another depth has as many in
        proportion. Its batch is 1.
    """

    name: ClassVar[str] = "memvr"
    label: ClassVar[str] = "MemVR"
    lever: ClassVar[str] = "feed-forward"
    paper: ClassVar[Paper | None] = Paper(
        "Zou et al.",
        "Look Twice Before You Answer: Memory-Space Visual Retracing for Hallucination Mitigation in Multimodal Large "
        "Language Models",
        2025,
        "ICML",
        "2410.03577",
    )
    trial: ClassVar[Mapping[str, Any]] = {"threshold": 0.0, "ratio": 0.9}
    needs_image_keys: ClassVar[bool] = True
    asks_head: ClassVar[bool] = True
    keeps_image: ClassVar[bool] = True

    ratio: float = option(
        0.12, at_least=0.0, at_most=1.0, neutral=0.0, help="share of the MLP's output that is given up"
    )
    threshold: float = option(0.75, at_least=0.0, at_most=1.0, help="least uncertainty, from 0 to 1")
    layers: Layers = layers_option(paper="7 to 16 of 32, in proportion")

    @property
    def site(self) -> Site:
        return "mlp"

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        depth = anatomy.depth
        return range(round(depth * 7 / 32), round(depth * 16 / 32) + 1)

    def steer(self, call: StreamCall) -> Tensor | None:
        if self.ratio == 0.0:
            return None
        _require_cache(call)
        refreshed = self._refreshed(call)
        self._note(call, refreshed & call.state.key_map.has_image)
        mixed = (1.0 - self.ratio) * call.leaving + self.ratio * _as_large(self._again(call), call.leaving)
        return torch.where(refreshed[:, None, None], mixed, call.leaving)

    def _refreshed(self, call: StreamCall) -> Tensor:
        """Return bool `[B]`: rows that are unsure before this layer, and before none of the lower ones."""
        likely = call.head.logits(call.state.entering[call.layer]).topk(_CANDIDATES, dim=-1).values.log_softmax(dim=-1)
        unsure = -(likely.exp() * likely).sum(dim=-1) / math.log(_CANDIDATES) > self.threshold
        before = call.memory.get("at")
        done = call.memory["done"] if before is not None and before < call.layer else torch.zeros_like(unsure)
        call.memory["at"], call.memory["done"] = call.layer, done | unsure
        return unsure & ~done

    def _note(self, call: StreamCall, refreshed: Tensor) -> None:
        """Count each row once on each layer, whenever it is first refreshed there."""
        noted = call.memory.get(call.layer, torch.zeros_like(refreshed))
        call.tally.note_rows(refreshed & ~noted)
        call.memory[call.layer] = noted | refreshed

    def _again(self, call: StreamCall) -> Tensor:
        """Return `[B, T, width]`: what the image's positions give for what enters the MLP."""
        image = call.image.to(call.entering)
        found: Tensor = call.entering @ image.transpose(1, 2) @ image
        return found


def _as_large(hidden: Tensor, like: Tensor) -> Tensor:
    """Return hidden states `[B, T, width]` whose mean magnitude is that of the others at each position."""
    own = hidden.abs().mean(dim=-1, keepdim=True).clamp_min(torch.finfo(hidden.dtype).tiny)
    return hidden * (like.abs().mean(dim=-1, keepdim=True) / own)


def _require_cache(call: StreamCall) -> None:
    if not call.prefill and 1 < call.leaving.shape[1] == call.state.key_map.length:
        raise UnsupportedGeneration(
            "without a cache every step computes all positions again, and which layer of each was refreshed depends on "
            "what was said when it was new; generate with use_cache=True"
        )
