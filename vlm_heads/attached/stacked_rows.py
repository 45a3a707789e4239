"""Rows of several streams as rows of one layer call: what the layer is given, and the caches behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

# Arguments of a decoder layer that differ from row to row, and the axis of the rows, counted back from the last.
# Positions may carry leading axes of sections.
_ROWS = {"position_ids": -2, "position_embeddings": -3}
_OF_ATTENTION = ("attention_mask", "past_key_values")  # each stream keeps its own


class JoinedCache:
    """Stands in for the cache in a layer that runs the rows of all streams, the first stream's before the others'.

    Attributes:
        others: the other streams' keys and values of the layer that was updated last.
    """

    def __init__(self, first: Cache, others: Sequence[Cache]) -> None:
        self.others: list[tuple[Tensor, Tensor]] = []
        self._first = first
        self._others = others

    def update(self, key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Give each stream's cache its rows of keys and values; return all of the first stream's."""
        streams = len(self._others) + 1
        keys, values = key.chunk(streams), value.chunk(streams)
        self.others = [
            cache.update(one, other, layer, *args, **kwargs)
            for cache, one, other in zip(self._others, keys[1:], values[1:], strict=True)
        ]
        found: tuple[Tensor, Tensor] = self._first.update(keys[0], values[0], layer, *args, **kwargs)
        return found


class StackedArguments:
    """Makes one layer call's arguments of those of several; what layers share is stacked once.

    Args:
        rows: rows `R` of each stream.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._known: dict[int, tuple[list[Any], Any]] = {}  # by what the first stream is given

    def of(
        self, first: Mapping[str, Any], others: Sequence[Mapping[str, Any]], cache: JoinedCache
    ) -> dict[str, Any] | None:
        """Return the arguments for the rows of all streams, with the first stream's mask.

        None where there are others by row.
        """
        stacked: dict[str, Any] = dict(first)
        for name, value in first.items():
            if name == "past_key_values":
                stacked[name] = cache
            elif name in _ROWS:
                stacked[name] = self._once([value, *(other.get(name) for other in others)], _ROWS[name])
            elif name not in _OF_ATTENTION and _holds_tensors(value):
                return None
        return stacked

    def _once(self, values: list[Any], axis: int) -> Any:
        known = self._known.get(id(values[0]))
        if known is None or any(one is not other for one, other in zip(known[0], values, strict=True)):
            known = self._known[id(values[0])] = (values, self._stack(values, axis))
        return known[1]

    def _stack(self, values: Sequence[Any], axis: int) -> Any:
        first = values[0]
        if isinstance(first, tuple):
            return tuple(self._stack(parts, axis) for parts in zip(*values, strict=True))
        if not isinstance(first, Tensor) or first.dim() < -axis:
            return first
        if first.shape[axis] == 1 and all(one is first for one in values):
            return first
        return torch.cat([self._of_all_rows(one, axis) for one in values], dim=axis)

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
