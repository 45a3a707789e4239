"""What each thread that generates on an attached model has under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from vlm_heads.attached.generations import TrackedGeneration
from vlm_heads.attached.uncached import Uncached
from vlm_heads.toolkit.first_pass import FirstPass


class OfOneThread(threading.local):
    """What a thread has under way: a generation runs in one thread from its prompt to its end.

    Attributes:
        paused: whether forwards are plain and belong to no generation.
        uncached: the generations without a cache.
        embedded_ids: ids whose embeddings are on their way to the model.
        finished: the generation of the last forward.
        reading: sees a first pass; None outside of one.
        called: whether a call of `generate` is under way.
        told: what first passes found, by intervention; empty where there was none.
    """

    def __init__(self) -> None:
        self.paused = False
        self.uncached: Uncached[TrackedGeneration] = Uncached()
        self.embedded_ids: Tensor | None = None
        self.finished: TrackedGeneration | None = None
        self.reading: FirstPass | None = None
        self.called = False
        self.told: Sequence[Mapping[Any, Any]] = ()

    @property
    def ahead(self) -> bool:
        """Whether what runs between forwards is for the answer of a call of `generate`, and nothing plain."""
        return self.called and not self.paused and self.reading is None

    @contextmanager
    def holding(self, **values: Any) -> Iterator[None]:
        """Let attributes have other values while the context lasts."""
        before = {name: getattr(self, name) for name in values}
        vars(self).update(values)
        try:
            yield
        finally:
            vars(self).update(before)
