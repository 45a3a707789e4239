"""Other ways to redistributed attention, which the benchmark measures ours against; nothing else uses them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlm_kernels import reference
from vlm_kernels.plan import AttentionPlan


def materialised_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, key_class: Tensor) -> Tensor:
    """Return causal edited attention as the published programs compute it: all weights of all rows, then the edits.

    Keys and values are repeated for grouped queries, weights are float32 and the products in the query's dtype. No
    Python loop over heads, which some of the programs have.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if query.shape[2] > 1:
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        logits = logits.masked_fill(hidden, -torch.inf)
    weights = logits.softmax(-1, dtype=torch.float32)
    mass = reference.class_mass(weights, key_class, plan.classes)
    factors, _ = reference.class_factors(mass, key_class, plan)
    index = key_class.long()[:, None, None, :].expand_as(weights)
    output = torch.matmul((weights * factors.gather(-1, index)).to(value.dtype), value)
    return output if plan.head_gain is None else (output * plan.head_gain[:, :, None, None]).to(output.dtype)


def flex_attention_twice(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, key_class: Tensor) -> Tensor:
    """Return causal edited attention by FlexAttention: once for the masses, with class indicators in place of values.

    A hook before softmax cannot know a row's masses, so that a second pass adds the logarithm of the factors.
    """
    attention = _flex_attention(query.is_cuda)
    settings: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1], "block_mask": _causal(query, key)}
    numbers = torch.arange(query.shape[-1], dtype=torch.int8, device=query.device)
    indicators = (key_class[:, None, :, None] == numbers).to(value.dtype).expand_as(value).contiguous()
    mass = attention(query, key, indicators, **settings)[..., : plan.classes].float()
    factors, _ = reference.class_factors(mass, key_class, plan)
    offsets = factors.log().contiguous()
    classes = key_class.to(torch.int32)

    def add_offset(logit: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return logit + offsets[batch, head, row, classes[batch, column]]

    output: Tensor = attention(query, key, value, score_mod=add_offset, **settings)
    return output if plan.head_gain is None else (output * plan.head_gain[:, :, None, None]).to(output.dtype)


@functools.cache
def _flex_attention(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


def _causal(query: Tensor, key: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    rows, keys = query.shape[2], key.shape[2]
    return _block_mask(create_block_mask, rows, keys, query.device) if rows > 1 else None


@functools.lru_cache(maxsize=16)
def _block_mask(create: Callable[..., Any], rows: int, keys: int, device: torch.device) -> Any:
    def causal(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return row >= column

    return create(causal, None, None, rows, keys, device=device)
