"""Whose turn it is: one thread at a time runs a forward, and one whole answer at a time has a model to itself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from weakref import WeakKeyDictionary

from torch import nn

from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.wrappers import unwrapped


class ForwardTurns:
    """Lets one thread at a time run a forward of the model, nested ones included."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders: list[int] = []

    def take(self) -> None:
        """Wait until no other thread runs a forward."""
        self._lock.acquire()
        self._holders.append(threading.get_ident())

    @property
    def mine(self) -> bool:
        """Whether this thread runs a forward."""
        return threading.get_ident() in self._holders

    def give_back(self) -> None:
        """End the turn; do nothing if another hook failed before it began."""
        if self._holders and self._holders[-1] == threading.get_ident():
            self._holders.pop()
            self._lock.release()


class ModelTurn:
    """Lets one answer at a time have a model to itself, what is attached for it included."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: int | None = None
        self._generating: Counter[int] = Counter()  # calls under way, by thread

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Wait for the answers that are under way, and keep the model while the context lasts.

        Raises:
            UnsupportedGeneration: if this thread has the model already: it would wait for itself.
        """
        if self._mine:
            raise UnsupportedGeneration(
                "the model is asked again from inside an answer of its own, as by a logits processor or a streamer: "
                "let that answer end first, or ask a second model"
            )
        with self._changed:
            self._changed.wait_for(lambda: self._holder is None)
            self._holder = threading.get_ident()
        try:
            yield
        finally:
            with self._changed:
                self._holder = None
                self._changed.notify_all()

    @contextmanager
    def between(self) -> Iterator[None]:
        """Keep the model between the answers of other threads; inside an answer of one's own at once."""
        with nullcontext() if self._mine else self.whole():
            yield

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Do the same after all that other threads generate is said to its end, as it began."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._generating.keys() - {me})
        with self.between():
            yield

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Note that this thread generates while the context lasts."""
        me = threading.get_ident()
        self._count(me, 1)
        try:
            yield
        finally:
            self._count(me, -1)

    def waited(self) -> bool:
        """Wait until no other thread has the model to itself; return whether one had it."""
        with self._changed:
            if self._holder is None or self._mine:
                return False
            self._changed.wait_for(lambda: self._holder is None)
            return True

    def _count(self, thread: int, change: int) -> None:
        with self._changed:
            self._generating[thread] += change
            if not self._generating[thread]:
                del self._generating[thread]
            self._changed.notify_all()

    @property
    def _mine(self) -> bool:
        return self._holder == threading.get_ident()


_TURNS: WeakKeyDictionary[nn.Module, ModelTurn] = WeakKeyDictionary()
_MAKING = threading.Lock()


def turn_of(model: nn.Module) -> ModelTurn:
    """Return whose turn it is on this model, wrapped or not; one object for a model, as long as it lives."""
    with _MAKING:
        return _TURNS.setdefault(unwrapped(model), ModelTurn())
