"""CausalMM: streams of a model that attends otherwise are taken off (Zhou et al., ICLR 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vlm_heads.attached.image_features import patches_times, projector_of
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.stream_edit import SecondStreamCall, StreamEdit
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.families import Anatomy, examine
from vlm_heads.toolkit.fixed_noise import fixed_noise
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import all_weights, kept_keys, require_image_keys, seen_keys
from vlm_heads.toolkit.vision_salience import TowerAttention, require_class_token

Kind = Literal["uniform", "random", "reversed"]


@dataclass(frozen=True)
class CounterfactualAttention(Contrast):
    """CausalMM: `(1 + 2 gamma) z - gamma z_v - gamma z_l`, two streams that attend otherwise.

    One stream sees the picture through another vision attention. The other weighs all keys of the language model
    otherwise, in every layer. Either can be left out; then it is `(1 + gamma) z - gamma z2`.

    Formula:
        M        attention of the vision tower's second-last layer, one map [1 + P, 1 + P] for each head
        M'       shuffle: its entries in another order; random: 2 u, u drawn from 0..1; uniform: its mean;
                 reversed: max M - M
        f        the mean over heads of M', resized to the square of patches (bilinear)
        z_v      the stream whose patch features are multiplied by f before they are projected
        w[j]     weights of a row of the language model after softmax, over the keys j that it sees
        z_l      the stream with w' for w in every layer, head and row
        w'[j]    uniform: 1; random: u[j], drawn; reversed: max w - w[j];   each divided by its sum over j
        z <- (1 + 2 gamma) * z - gamma * z_v - gamma * z_l   among tokens with p >= bound * max p

    Paper and program:
        In the authors' program the vision stream reads the first stream's key cache after the first token, so that it
        is the first stream from there on: its contrast touches one token. Under mode="code" it weighs nothing after the
        first token. Otherwise each stream has a cache of its own. The program's code for the language model does not
        make rows sum to 1: "uniform" gives each key 1 over all keys of the forward, "random" divides by a sum over
        later keys too, and "reversed" divides by nothing. mode="code" does the same. The program's bound is 0.1 in its
        defaults and 0.6 in its script; it samples at temperature 1.

    Not established:
        Which of the three replaces the language model's weights where the paper reports both; the default is ours. A
        row that sees one key has nothing to reverse and keeps its weight.
    """

    name: ClassVar[str] = "causalmm"
    label: ClassVar[str] = "CausalMM"
    paper: ClassVar[Paper | None] = Paper(
        "Zhou et al.",
        "Mitigating Modality Prior-Induced Hallucinations in Multimodal Large Language Models via "
        "Deciphering Attention Causality",
        2025,
        "ICLR",
        "2410.04780",
    )
    passes: ClassVar[int] = 3
    trial: ClassVar[Mapping[str, Any]] = {"vision": "none"}

    gamma: float = option(1.0, at_least=0.0, neutral=0.0, help="strength of the contrast with each stream")
    vision: Literal["shuffle", "random", "uniform", "reversed", "none"] = option(
        "shuffle", help="what becomes of the vision attention; none leaves this stream out"
    )
    language: Literal["uniform", "random", "reversed", "none"] = option(
        "uniform", help="what becomes of the language model's weights; none leaves this stream out"
    )
    mode: Literal["paper", "code"] = option(
        "paper", help='"code" contrasts the vision stream at the first token alone, and makes no row sum to 1'
    )
    seed: int = option(0, help="draws what is random, the same for every picture")

    def check(self, anatomy: Anatomy) -> None:
        super().check(anatomy)
        require_image_keys(anatomy)
        if self.vision == self.language == "none":
            raise BadOption("causalmm: vision=none and language=none leave no stream to take off; name one of them")

    def check_model(self, model: nn.Module, anatomy: Anatomy) -> None:
        if self.vision == "none":
            return
        try:
            require_class_token(model, anatomy.decoder)
            projector_of(model, anatomy)
        except UnsupportedModel as lacking:
            raise UnsupportedModel(f"{lacking}; causalmm:vision=none leaves the vision stream out") from None

    def streams(self, asked: Asked) -> tuple[SecondStream, ...]:
        found = []
        if self.vision != "none":
            factors = partial(_patch_factors, kind=self.vision, seed=self.seed)
            found.append(asked.again(showing=partial(patches_times, asked.model, examine(asked.model), factors)))
        if self.language != "none":
            found.append(asked.again(edit=_OtherWeights(self.language, self.mode == "paper", self.seed)))
        return tuple(found)

    def weights(self, step: int) -> tuple[float, ...]:
        gone = self.mode == "code" and step > 0
        vision = () if self.vision == "none" else (0.0 if gone else -self.gamma,)
        language = () if self.language == "none" else (-self.gamma,)
        others = vision + language
        return (1.0 - sum(others), *others)


def _patch_factors(tower: TowerAttention, kind: str, seed: int) -> Tensor:
    """Return `[N, P]`: the edited map of the tower's second-last layer, resized to its patches."""
    maps = tower.head_weights("late")
    images, heads, tokens, _ = maps.shape
    side = math.isqrt(tokens - 1)
    if side * side != tokens - 1:
        raise UnsupportedModel(f"causalmm resizes a map to a square of patches, and {tokens - 1} patches form none")
    places = torch.arange(heads, device=maps.device)[:, None], torch.arange(tokens * tokens, device=maps.device)
    if kind == "shuffle":
        order = fixed_noise(seed, *places).argsort(dim=-1, stable=True)
        edited = maps.flatten(2).gather(2, order.expand(images, -1, -1)).view_as(maps)
    elif kind == "random":
        edited = 2.0 * fixed_noise(seed, *places).view(1, heads, tokens, tokens).expand_as(maps)
    elif kind == "uniform":
        edited = maps.mean(dim=(2, 3), keepdim=True).expand_as(maps)
    else:
        edited = maps.amax(dim=(2, 3), keepdim=True) - maps
    return interpolate(edited, size=(side, side), mode="bilinear", align_corners=False).mean(dim=1).flatten(1)


@dataclass(frozen=True)
class _OtherWeights(StreamEdit):
    """Gives every row other weights: uniform, random or reversed ones.

    Attributes:
        kind: which.
        sums_to_one: whether each row is made to.
        seed: draws random ones.
    """

    kind: Kind
    sums_to_one: bool
    seed: int

    def attend(self, call: SecondStreamCall) -> Tensor:
        weights = self._weights(call, seen_keys(call))
        batch, heads, rows, _ = weights.shape
        packed = weights.reshape(batch, call.value.shape[1], -1, weights.shape[-1])
        output = (packed @ call.value.to(weights.dtype)).reshape(batch, heads, rows, -1)
        return output.transpose(1, 2).to(call.query.dtype).contiguous()

    def _weights(self, call: SecondStreamCall, seen: Tensor) -> Tensor:
        """Return `[B, Hq, Tq, Tk]`: what the keys weigh that each row sees."""
        shape = (*call.query.shape[:3], call.key.shape[2])
        one = seen.to(torch.promote_types(call.query.dtype, torch.float32))
        if self.kind == "reversed":
            plain = all_weights(call)
            other = (plain.amax(dim=-1, keepdim=True) - plain) * one
            total = other.sum(dim=-1, keepdim=True)
            return torch.where(total > 0, other / total, plain) if self.sums_to_one else other
        present = kept_keys(call)[:, None, None, -shape[-1] :].to(one)
        drawn = (one if self.kind == "uniform" else self._drawn(call) * one).expand(shape)
        every = present if self.kind == "uniform" else self._drawn(call) * present
        total = (drawn if self.sums_to_one else every).sum(dim=-1, keepdim=True)
        return drawn / total.clamp_min(torch.finfo(one.dtype).tiny)

    def _drawn(self, call: SecondStreamCall) -> Tensor:
        """Return numbers `[B, Hq, Tq, Tk]` from 0 to 1, told by layer, head and both places in the row's own text."""
        places = kept_keys(call).cumsum(dim=1)
        heads = torch.arange(call.query.shape[1], device=places.device)[:, None, None]
        rows, keys = places[:, -call.query.shape[2] :], places[:, -call.key.shape[2] :]
        return fixed_noise(
            self.seed, heads + call.layer * call.query.shape[1], rows[:, None, :, None], keys[:, None, None]
        )
