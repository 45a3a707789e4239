"""DoLa, decoding by contrasting layers: what an early layer would say is taken off (Chuang et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vlm_heads.families import Anatomy
from vlm_heads.lenses.base import Lens
from vlm_heads.token_step import TokenStep, implausible
from vlm_heads.toolkit.layer_sets import Layers, layers_option, resolve_layers
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option

_LARGEST_BUCKET = 20  # layers


@dataclass(frozen=True)
class LayerContrast(Lens):
    """DoLa: `log p - log q`, where q is what one of the earlier layers would say; the one that differs most is taken.

    Published for text models and the questions of TruthfulQA. On captions of vision-language models it is about greedy.

    Formula:
        p      the model's own next-token probabilities
        q[l]   the head over what enters layer l, without the last norm unless `norm` is on
        M[l]   = (p + q[l]) / 2
        D[l]   = (KL(p || M[l]) + KL(q[l] || M[l])) / 2     mode "paper": the Jensen-Shannon divergence
        D[l]   = (KL(M[l] || p) + KL(M[l] || q[l])) / 2     mode "code"
        z     <- log p - strength * log q[argmax D]         among tokens with p >= bound * max p

    Paper and program:
        The program has the arguments of both divergences the other way round. It chooses one layer for all rows of a
        batch, and its mask is that of the first row; here every row has its own. Both apply the head to a hidden state
        that the last norm has not seen. The buckets are halves of a model of 32 layers. The program takes 20 layers at
        most, and its later version in transformers leaves layer 0 out where embeddings and head are tied. "low" is for
        long answers and "high" for short ones. The program recommends a repetition penalty of 1.2; that is
        `generate`'s to give.
    """

    name: ClassVar[str] = "dola"
    label: ClassVar[str] = "DoLa"
    lever: ClassVar[str] = "lens"
    paper: ClassVar[Paper | None] = Paper(
        "Chuang et al.",
        "DoLa: Decoding by Contrasting Layers Improves Factuality in Large Language Models",
        2024,
        "ICLR",
        "2309.03883",
    )
    trial: ClassVar[Mapping[str, Any]] = {"layers": "all", "strength": 50.0, "bound": 0.0}

    strength: float = option(
        1.0, at_least=0.0, neutral=0.0, help="factor on the earlier layer's log-probabilities; 1 as published"
    )
    bucket: Literal["low", "high"] = option(
        "low", help="which half of the layers is chosen from where `layers` says paper"
    )
    layers: Layers = layers_option(paper="every second layer of the bucket")
    norm: bool = option(False, help="apply the model's last norm to the early hidden state too")
    mode: Literal["paper", "code"] = option("paper", help="which way round the divergences are; see below")
    bound: float = option(
        0.1,
        at_least=0.0,
        at_most=1.0,
        help="tokens less probable than this share of the most probable one are excluded",
    )

    def reads(self, anatomy: Anatomy) -> frozenset[int]:
        return resolve_layers(self.layers, anatomy.depth, self._bucket(anatomy))

    def weigh(self, step: TokenStep) -> Tensor:
        candidates = sorted(step.reads)
        own = step.log_probs()
        early = torch.stack([step.early_logits(layer, self.norm).log_softmax(dim=-1) for layer in candidates])
        chosen = self._divergence(own, early).argmax(dim=0)
        step.note(candidates, chosen)
        rows = torch.arange(len(chosen), device=chosen.device)
        weighed = own - self.strength * early[chosen, rows]
        return weighed.masked_fill(implausible(own, self.bound), -torch.inf)

    def _bucket(self, anatomy: Anatomy) -> Sequence[int]:
        depth = anatomy.depth
        if self.bucket == "high":
            return range(max(depth // 2, depth - _LARGEST_BUCKET), depth, 2)
        tied = bool(getattr(anatomy.decoder.config, "tie_word_embeddings", False))
        return range(2 if tied and depth > 4 else 0, min(max(depth // 2, 1), _LARGEST_BUCKET), 2)

    def _divergence(self, own: Tensor, early: Tensor) -> Tensor:
        """Return `[layers, R]` of log-probabilities `[R, V]` and `[layers, R, V]`."""
        between = torch.logaddexp(own, early) - torch.log(torch.full_like(own[..., :1], 2.0))
        if self.mode == "paper":
            return (_divergence(own, between) + _divergence(early, between)) / 2
        return (_divergence(between, own) + _divergence(between, early)) / 2


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    """Return KL(one || other) over the last axis of log-probabilities; what is excluded in either counts nothing."""
    terms = one.exp() * (one - other)
    return terms.where(one.isfinite() & other.isfinite(), 0.0).sum(dim=-1)
