"""DeCo, dynamic correction decoding: what a middle layer was surest of is added (Wang et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlm_heads.families import Anatomy
from vlm_heads.lenses.base import Lens
from vlm_heads.token_step import TokenStep
from vlm_heads.toolkit.layer_sets import Layers, layers_option, resolve_layers
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option


@dataclass(frozen=True)
class EarlyAnswer(Lens):
    """DeCo: `z + alpha * p_max * z[l]`, where l is the layer that is surest of one of the likely tokens.

    The idea: middle layers recognise what is in the image, and later ones talk themselves out of it.

    Formula:
        z      token logits; p their probabilities
        C      candidates: of the `top_k` most probable tokens, the fewest that together have probability `top_p`
        z[l]   token logits of what enters layer l, after the model's last norm; p[l] their probabilities
        l, p_max = the layer, and the probability, of the largest p[l][c] over all layers and candidates c
        z     <- z + alpha * p_max * z[l]   among the candidates alone

    Paper and program:
        Both are known at second hand, by re-implementations that agree on all of this. Not established is whether
        layers 20 to 28 count what enters them, as here, or what leaves them. They are those of a model of 32; another
        depth has as many in proportion.
    """

    name: ClassVar[str] = "deco"
    label: ClassVar[str] = "DeCo"
    lever: ClassVar[str] = "lens"
    paper: ClassVar[Paper | None] = Paper(
        "Wang et al.",
        "MLLM can see? Dynamic Correction Decoding for Hallucination Mitigation",
        2025,
        "ICLR",
        "2410.11779",
    )
    trial: ClassVar[Mapping[str, Any]] = {"layers": "all", "alpha": 200.0}

    alpha: float = option(0.6, at_least=0.0, neutral=0.0, help="factor on the middle layer's logits")
    layers: Layers = layers_option(paper="20 to 28 of 32, in proportion")
    top_k: int = option(20, at_least=1, help="most candidates")
    top_p: float = option(0.9, at_least=0.0, at_most=1.0, help="probability that the candidates have together")

    def reads(self, anatomy: Anatomy) -> frozenset[int]:
        depth = anatomy.depth
        first, last = round(depth * 20 / 32), min(round(depth * 28 / 32), depth - 1)
        return resolve_layers(self.layers, depth, range(min(first, last), last + 1))

    def weigh(self, step: TokenStep) -> Tensor:
        likely, kept = self._candidates(step.logits)
        layers = sorted(step.reads)
        early = torch.stack([step.early_logits(layer) for layer in layers])
        sure = early.softmax(dim=-1).gather(-1, likely.expand(len(layers), -1, -1))
        surest, chosen = sure.masked_fill(~kept, 0.0).amax(dim=-1).max(dim=0)
        step.note(layers, chosen)
        rows = torch.arange(len(chosen), device=chosen.device)
        weighed = step.logits + self.alpha * surest[:, None] * early[chosen, rows]
        excluded = torch.ones_like(weighed, dtype=torch.bool).scatter(-1, likely, ~kept)
        return weighed.masked_fill(excluded, -torch.inf)

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most probable tokens int64 `[R, K]`, and which of them are candidates, bool `[R, K]`."""
        likely, tokens = logits.softmax(dim=-1).topk(min(self.top_k, logits.shape[-1]), dim=-1)
        before = likely.cumsum(dim=-1) - likely
        kept = before < self.top_p
        kept[:, 0] = True
        return tokens, kept
