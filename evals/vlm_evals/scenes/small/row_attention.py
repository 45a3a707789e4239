"""Attention over rows that lie end to end: prefix to itself, every slot to its row's prefix and itself.

Going piece by piece computes no weight that a mask would throw away, and keeps autograd from holding it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "small_training"


def row_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float, layout: tuple[tuple[int, ...], ...], **kwargs: Any,
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
    return torch.cat(outputs, dim=2).flatten(0, 1).transpose(0, 1)[None], None


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return outputs [Hkv, G, T, d] of scaled queries of that shape, which are the last of the keys [Hkv, K, d]."""
    groups, heads, length, size = query.shape
    seen = key.shape[1]
    later = torch.full((length, seen), float("-inf"), device=key.device).triu(seen - length + 1)
    logits = (query.reshape(groups, heads * length, size) @ key.mT).reshape(groups, heads, length, seen)
    weights = (logits + later).softmax(-1).reshape(groups, heads * length, seen)
    return (weights @ value).reshape(groups, heads, length, size)
