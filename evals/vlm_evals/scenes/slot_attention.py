"""Attention over training rows: prefix to itself, every slot to the prefix and itself.

The mask of such a row is mostly empty: a slot's query needs some 70 keys of the row's 200. On a CPU, softmax over
masked keys costs as much as over real ones. There, going slot by slot takes about half the time of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .batches import PREFIX, Batch

NAME = "slot_training"


def _causal(length: int, device: torch.device) -> Tensor:
    return torch.full((length, length), float("-inf"), device=device).triu(1)


def slot_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float, batch: Batch, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Return head outputs [B, T, H, d] for rows laid out as `batch.layout`; query, key and value are [B, H, T, d]."""
    rows, heads, _, size = query.shape
    query = query * scaling
    first_key, first_value = key[:, :, :PREFIX], value[:, :, :PREFIX]
    weights = (query[:, :, :PREFIX] @ first_key.mT + _causal(PREFIX, query.device)).softmax(-1)
    outputs = [weights @ first_value]
    hidden = torch.zeros(rows, 1, 1, 1, PREFIX, device=query.device)
    hidden[batch.blind, ..., 2:] = float("-inf")
    start = PREFIX
    for kind, slots in enumerate(batch.layout):
        stop, shape = start + slots.count * slots.length, (rows, heads, slots.count, slots.length, size)
        own_query, own_key, own_value = (tensor[:, :, start:stop].reshape(shape) for tensor in (query, key, value))
        to_prefix = (own_query.reshape(rows, heads, -1, size) @ first_key.mT).reshape(*shape[:4], PREFIX)
        if kind == 0:
            to_prefix = to_prefix + hidden
        to_self = own_query @ own_key.mT + _causal(slots.length, query.device)
        weights = torch.cat([to_prefix, to_self], dim=-1).softmax(-1)
        seen = weights[..., :PREFIX].reshape(rows, heads, -1, PREFIX) @ first_value
        outputs.append(seen + (weights[..., PREFIX:] @ own_value).reshape(rows, heads, -1, size))
        start = stop
    return torch.cat(outputs, dim=2).transpose(1, 2), None
