"""A plain loop without a cache in float64: each token from a forward over the whole sequence, attention by a rule."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from tests.support.families import IMAGE, Tiny

Rule = Callable[[int, Tensor, Tensor], Tensor]
"""Takes a layer, its logits `[Hq, T, T]`, `-inf` where a key is hidden, and values `[Hq, T, D]`; returns outputs."""


class _Numbered(Protocol):
    layer_idx: int


def plain(_: int, logits: Tensor, values: Tensor) -> Tensor:
    """Plain attention `[Hq, T, D]`."""
    return logits.softmax(-1) @ values


class FullLoop:
    """One unpadded row of a tiny Llava, computed anew in float64 for every token.

    Attributes:
        prompt: token ids.
        image: bool `[T]`, its image positions.
        model: a copy in float64.
    """

    def __init__(self, tiny: Tiny) -> None:
        self.model = copy.deepcopy(tiny.model).double()
        self._pixels = tiny.inputs["pixel_values"].double()
        ids = tiny.inputs["input_ids"][0]
        self.prompt: list[int] = ids.tolist()
        self.image = ids == IMAGE

    def token_logits(self, said: Sequence[int], rule: Rule, *, gradients: bool = False) -> Tensor:
        """Return the token logits `[V]` after the prompt and what was said, attention computed by a rule."""
        ids = torch.tensor([[*self.prompt, *said]])
        with torch.set_grad_enabled(gradients), self._by(rule):
            output = self.model(input_ids=ids, pixel_values=self._pixels, use_cache=False)
        logits: Tensor = output.logits[0, -1]
        return logits

    @contextmanager
    def _by(self, rule: Rule) -> Iterator[None]:
        def attention(
            module: _Numbered,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            mask: Tensor | None,
            scaling: float,
            **_: object,
        ) -> tuple[Tensor, None]:
            keys, values = (one[0].repeat_interleave(query.shape[1] // one.shape[1], dim=0) for one in (key, value))
            logits = query[0] @ keys.transpose(-1, -2) * scaling
            later = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1)
            heads = rule(module.layer_idx, logits.masked_fill(later, -torch.inf), values)
            return heads.transpose(0, 1)[None], None

        AttentionInterface.register("in_full", attention)
        AttentionMaskInterface.register("in_full", sdpa_mask)
        self.model.set_attn_implementation({"text_config": "in_full"})
        try:
            yield
        finally:
            self.model.set_attn_implementation({"text_config": "sdpa"})
