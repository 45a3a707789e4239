"""Which generation a cache belongs to, a copy of the cache included."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from transformers.cache_utils import Cache

from vlm_heads.attached.layer_edit import GenerationEdits
from vlm_heads.call import GenerationState

_CARRIED = "_vlm_heads_generation"  # attribute of a cache while its generation is followed


@dataclass(eq=False)
class TrackedGeneration(GenerationState):
    """A generation together with the edits of its layers.

    Attributes:
        edits: the combined plans, kept for as long as the interventions ask for the same.
    """

    edits: GenerationEdits = field(default_factory=GenerationEdits)

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


def _nothing() -> None:
    return None


def _own(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, list | dict | set) else value
