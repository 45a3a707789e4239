"""Rows of two streams as rows of one layer call: what the layer is given, and the two caches behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

# Arguments of a decoder layer that differ from row to row, and the axis of the rows, counted back from the last.
# Positions may carry leading axes of sections.
_ROWS = {"position_ids": -2, "position_embeddings": -3}
_OF_ATTENTION = ("attention_mask", "past_key_values")  # each stream keeps its own


class JoinedCache:
    """Stands in for the cache in a layer that runs the rows of both streams, the first stream's before the second's.

    Attributes:
        second: the second stream's keys and values of the layer that was updated last.
    """

    def __init__(self, first: Cache, second: Cache, rows: int) -> None:
        self.second: tuple[Tensor, Tensor] | None = None
        self._first = first
        self._second = second
        self._rows = rows

    def update(self, key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Give each stream's cache its rows of keys and values `[2 R, Hkv, T, D]`; return all of the first stream's."""
        rows = self._rows
        self.second = self._second.update(key[rows:], value[rows:], layer, *args, **kwargs)
        found: tuple[Tensor, Tensor] = self._first.update(key[:rows], value[:rows], layer, *args, **kwargs)
        return found


class StackedArguments:
    """Makes one layer call's arguments of those of two; what layers share is stacked once.

    Args:
        rows: rows `R` of each stream.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._known: dict[int, tuple[Any, Any, Any]] = {}  # by what the first stream is given

    def of(self, first: Mapping[str, Any], second: Mapping[str, Any], cache: JoinedCache) -> dict[str, Any] | None:
        """Return the arguments for `2 R` rows, with the first stream's mask; None where there are others by row."""
        stacked: dict[str, Any] = dict(first)
        for name, value in first.items():
            if name == "past_key_values":
                stacked[name] = cache
            elif name in _ROWS:
                stacked[name] = self._once(value, second.get(name), _ROWS[name])
            elif name not in _OF_ATTENTION and _holds_tensors(value):
                return None
        return stacked

    def _once(self, first: Any, second: Any, axis: int) -> Any:
        known = self._known.get(id(first))
        if known is None or known[0] is not first or known[1] is not second:
            known = self._known[id(first)] = (first, second, self._stack(first, second, axis))
        return known[2]

    def _stack(self, first: Any, second: Any, axis: int) -> Any:
        if isinstance(first, tuple):
            return tuple(self._stack(one, other, axis) for one, other in zip(first, second, strict=True))
        if not isinstance(first, Tensor) or first.dim() < -axis or (first is second and first.shape[axis] == 1):
            return first
        return torch.cat([self._of_all_rows(first, axis), self._of_all_rows(second, axis)], dim=axis)

    def _of_all_rows(self, value: Tensor, axis: int) -> Tensor:
        shape = [-1] * value.dim()
        shape[axis] = self._rows
        return value.expand(shape) if value.shape[axis] == 1 else value


def only_appends(attention: type[nn.Module]) -> bool:
    """Whether attentions of this class use their cache by `update` alone, so that two caches can stand behind it."""
    names: set[str] = set()
    for kind in attention.__mro__[: attention.__mro__.index(nn.Module)]:
        for method in vars(kind).values():
            names |= set(getattr(getattr(method, "__code__", None), "co_names", ()))
    others = {name for name in vars(Cache) if name.startswith(("get_", "update_", "has_", "is_", "crop"))}
    return "update" in names and not names & (others | {"layers"})


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_tensors(one) for one in value)
    return isinstance(value, Tensor)
