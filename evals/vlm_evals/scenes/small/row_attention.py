"""Attention over rows that lie end to end: prefix to itself, every slot to its row's prefix and itself.

Going piece by piece computes no weight that a mask would throw away, and keeps autograd from holding it: that is for a
CPU. A GPU would spend its time on starting some thousand small products a layer, so there one mask says what sees what.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "small_training"

Layout = tuple[tuple[int, ...], ...]  # for each row the length of its prefix, then of its slots


def row_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float, layout: Layout, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Return head outputs [1, N, Hq, d].

    Args:
        module: the layer; not used.
        query: [1, Hq, N, d].
        key, value: [1, Hkv, N, d].
        attention_mask: not used; the layout says what sees what.
        scaling: of the logits.
        layout: for each row the length of its prefix, then of its slots.
        kwargs: not used.
    """
    if query.device.type == "cpu":
        return by_piece(query, key, value, scaling, layout), None
    mask = row_mask(layout, query.device)
    outputs = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
    return outputs.transpose(1, 2), None


@lru_cache(maxsize=2)  # a step has two layouts, and each of its layers asks again
def row_mask(layout: Layout, device: torch.device) -> Tensor:
    """Return which key a query sees, bool [N, N]: those before it in its row's prefix and in its own piece."""
    pieces = [(row, slot, length) for row, lengths in enumerate(layout) for slot, length in enumerate(lengths)]
    lengths = torch.tensor([length for _, _, length in pieces])
    row, slot = (torch.tensor([piece[i] for piece in pieces]).repeat_interleave(lengths).to(device) for i in (0, 1))
    place = torch.arange(len(row), device=device)
    near = (slot[None] == 0) | (slot[None] == slot[:, None])
    return (row[None] == row[:, None]) & near & (place[None] <= place[:, None])


def by_piece(query: Tensor, key: Tensor, value: Tensor, scaling: float, layout: Layout) -> Tensor:
    """Return the same, one piece after the other."""
    groups, size = key.shape[1], query.shape[-1]
    lengths = [length for row in layout for length in row]
    grouped = (query[0] * scaling).reshape(groups, -1, query.shape[2], size)  # [Hkv, G, N, d], G heads share keys
    queries = iter(torch.split(grouped, lengths, dim=2))
    keys, values = iter(torch.split(key[0], lengths, dim=1)), iter(torch.split(value[0], lengths, dim=1))
    outputs = []
    for _, *slots in layout:
        first_key, first_value = next(keys), next(values)
        outputs.append(_attend(next(queries), first_key, first_value))
        for _ in slots:
            seen = torch.cat([first_key, next(keys)], dim=1), torch.cat([first_value, next(values)], dim=1)
            outputs.append(_attend(next(queries), *seen))
    return torch.cat(outputs, dim=2).flatten(0, 1).transpose(0, 1)[None]


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return outputs [Hkv, G, T, d] of scaled queries of that shape, which are the last of the keys [Hkv, K, d]."""
    groups, heads, length, size = query.shape
    seen = key.shape[1]
    later = torch.full((length, seen), float("-inf"), device=key.device).triu(seen - length + 1)
    logits = (query.reshape(groups, heads * length, size) @ key.mT).reshape(groups, heads, length, seen)
    weights = (logits + later).softmax(-1).reshape(groups, heads * length, seen)
    return (weights @ value).reshape(groups, heads, length, size)
