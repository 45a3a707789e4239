"""Generations without a cache: every step brings the whole sequence again, and is known by how it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

State = TypeVar("State")

_KEPT = 4  # generations that may take turns; guidance runs two


@dataclass
class _Known(Generic[State]):
    """One generation.

    Attributes:
        ids: int64 `[B, T]`, all so far.
        prompt: how many of them are the prompt's.
        pictures: what the model was shown.
        state: what is known about it.
    """

    ids: Tensor
    prompt: int
    pictures: Mapping[str, Any]
    state: State


class Uncached(Generic[State]):
    """The uncached generations that one thread has under way.

    Args:
        whole_call: all of them belong to one call of `generate`, whose beams change places: their prompt identifies
            them. Otherwise, in a loop of somebody's own, all their tokens must.
    """

    def __init__(self, whole_call: bool = False) -> None:
        self._whole_call = whole_call
        self._known: list[_Known[State]] = []

    def begin(self, ids: Tensor, inputs: Mapping[str, Any], state: State) -> None:
        """Remember a generation by its prompt `[B, T]`; the oldest of too many is forgotten."""
        self._known = [*self._known[1 - _KEPT :], _Known(ids, ids.shape[1], _pictures(inputs), state)]

    def continued(self, ids: Tensor, inputs: Mapping[str, Any]) -> State | None:
        """Return the state of the generation that these ids continue by one token; None where they begin another."""
        for known in reversed(self._known):
            if self._goes_on(known, ids) and _same(known.pictures, _pictures(inputs)):
                known.ids = ids
                return known.state
        return None

    def _goes_on(self, known: _Known[State], ids: Tensor) -> bool:
        rows, past = known.ids.shape
        shared = known.prompt if self._whole_call else past
        return ids.shape == (rows, past + 1) and torch.equal(ids[:, :shared], known.ids[:, :shared])


def _pictures(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in inputs.items() if name.startswith("pixel_values")}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the same was shown. What a step leaves out was encoded before it and is not shown again."""
    shared = one.keys() & other.keys()
    return all(one[name] is other[name] or _equal(one[name], other[name]) for name in shared)


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
