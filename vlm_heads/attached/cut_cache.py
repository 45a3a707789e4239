"""Caches cut back: to their first columns, and to some rows of these; what cannot be cut is told apart."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

_CUTTABLE = (DynamicLayer, DynamicSlidingWindowLayer)  # their subclasses keep more than keys and values


def can_be_cut(cache: Any, columns: int) -> bool:
    """Whether every layer holds the keys of all columns, and none of a picture or a state of its own.

    A sliding window can be cut as long as nothing has left it, nor will within so many columns.

    Args:
        cache: as a forward returned it.
        columns: that it will have to hold.
    """
    layers = _filled(cache)
    if not all(type(one) in _CUTTABLE and columns < getattr(one, "sliding_window", columns + 1) for one in layers):
        return False
    return len({int(one.keys.shape[-2]) for one in layers}) == 1  # a picture's own keys are as many as its patches


def cut_cache(cache: Any, columns: int) -> None:
    """Let a cache hold its first columns alone."""
    for layer in _filled(cache):
        _keep(layer, layer.keys[..., :columns, :], layer.values[..., :columns, :])


def branch_cache(cache: Any, rows: Tensor, columns: int) -> Cache:
    """Return a cache that holds the first columns of some rows; the given one stays as it is.

    Args:
        cache: that can be cut.
        rows: int64 `[R]`, the row that each new one is taken from.
        columns: how many are kept.
    """
    branched: Cache = copy.copy(cache)
    branched.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in _filled(branched):
        there = rows.to(layer.keys.device)
        _keep(layer, layer.keys[there, :, :columns], layer.values[there, :, :columns])
    return branched


def _filled(cache: Any) -> list[Any]:
    """Return the layers that hold anything; those that share another's keys hold nothing."""
    return [layer for layer in getattr(cache, "layers", ()) if getattr(layer, "is_initialized", True)]


def _keep(layer: Any, keys: Tensor, values: Tensor) -> None:
    layer.keys, layer.values = keys, values
    if hasattr(layer, "cumulative_length"):
        layer.cumulative_length = int(keys.shape[-2])
