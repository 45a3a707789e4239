"""Which generation a cache belongs to, a copy of the cache included."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from vlm_heads.attached.layer_edit import GenerationEdits
from vlm_heads.call import GenerationState

_CARRIED = "_vlm_heads_generation"  # attribute of a cache while its generation is followed


@dataclass(eq=False)
class TrackedGeneration(GenerationState):
    """A generation together with the edits of its layers.

    Attributes:
        edits: the combined plans, kept for as long as the interventions ask for the same.
        aside: whether it is no answer but a question beside one, which no watcher sees.
    """

    edits: GenerationEdits = field(default_factory=GenerationEdits)
    aside: bool = False

    def forked(self) -> TrackedGeneration:
        """Return the generation as it is now; from here on the two go their own ways."""
        memories = [{name: _own(value) for name, value in memory.items()} for memory in self.memories]
        return replace(
            self,
            key_map=self.key_map.copied(),
            prefill=False,
            memories=memories,
            marked=dict(self.marked),
            edits=GenerationEdits(),
        )

    def branched(
        self, rows: Tensor, seen: Tensor, known: Sequence[Mapping[Any, Any]], forgetting: Collection[int] = ()
    ) -> TrackedGeneration:
        """Return some rows' beginning of the generation, for a question beside it.

        Args:
            rows: int64 `[R]`, the row that each new one is taken from.
            seen: bool `[R, columns]`, which of the first keys the new rows see.
            known: what each memory started with; it belongs to no row.
            forgetting: places of memories that hold what steps left; the question is behind none of these steps.
        """
        count, columns = self.key_map.rows, seen.shape[1]
        memories = [
            {name: value if start.get(name) is value else rows_of(value, rows, count) for name, value in one.items()}
            for one, start in zip(self.memories, known, strict=True)
        ]
        memories = [dict(known[at]) if at in forgetting else one for at, one in enumerate(memories)]
        return replace(
            self.forked(),
            key_map=self.key_map.branch(rows, seen),
            memories=memories,
            marked={layer: classes[rows, :columns] for layer, classes in self.marked.items()},
            aside=True,
        )


class Generations:
    """The generations that one attach follows, by their caches."""

    def __init__(self) -> None:
        self._by_cache: WeakKeyDictionary[Cache, TrackedGeneration] = WeakKeyDictionary()

    def of(self, cache: Cache) -> TrackedGeneration | None:
        """Return a cache's generation; None where nothing is known of it."""
        known = self._by_cache.get(cache)
        if known is None:
            carried = getattr(cache, _CARRIED, None)
            if isinstance(carried, _Carried) and carried.owner() is self:
                known = self._by_cache[cache] = carried.generation
        return known

    def keep(self, cache: Cache, generation: TrackedGeneration) -> None:
        """Remember whose cache this is; `copy.deepcopy` of it will be known too."""
        if self._by_cache.get(cache) is not generation:
            self._by_cache[cache] = generation
            setattr(cache, _CARRIED, _Carried(ref(self), generation))

    def forget(self) -> None:
        """Leave the caches as they would be without an attach."""
        for cache in list(self._by_cache):
            vars(cache).pop(_CARRIED, None)
        self._by_cache.clear()


class _Carried:
    """What a cache carries of its generation, so that it can be copied with the cache."""

    def __init__(self, owner: ReferenceType[Generations], generation: TrackedGeneration) -> None:
        self.owner = owner
        self.generation = generation

    def __deepcopy__(self, _: dict[int, Any]) -> _Carried:
        return _Carried(self.owner, self.generation.forked())

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()  # in another process nothing is known of it


def rows_of(value: Any, rows: Tensor, count: int) -> Any:
    """Return what a memory keeps of `count` rows, for some of them.

    A tensor whose first axis has that length holds a value for each row, inside a plan, a tuple, a list or a dictionary
    too. Everything else is as it is.
    """
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.dim() and value.shape[0] == count else value
    if is_dataclass(value) and not isinstance(value, type):
        parts = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
        return replace(value, **{name: rows_of(part, rows, count) for name, part in parts.items()})
    if type(value) in (tuple, list):
        return type(value)(rows_of(part, rows, count) for part in value)
    if isinstance(value, dict):
        return {name: rows_of(part, rows, count) for name, part in value.items()}
    return value


def rows_repeated(found: Mapping[Any, Any], rows: int) -> dict[Any, Any]:
    """Return what was found about the rows of a prompt, for a batch that holds each of them as often as another.

    Beams and several answers repeat rows, each row's copies one after the other.
    """
    counts = [value.shape[0] for value in found.values() if isinstance(value, Tensor) and value.dim()]
    count = max(counts, default=rows)
    if count == rows or rows % count:
        return dict(found)
    copies = torch.arange(count).repeat_interleave(rows // count)
    return {name: rows_of(value, copies, count) for name, value in found.items()}


def _nothing() -> None:
    return None


def _own(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, list | dict | set) else value
