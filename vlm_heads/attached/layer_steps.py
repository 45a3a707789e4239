"""What becomes of a decoder layer's call while two streams go through one forward."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from vlm_heads.attached.stacked_rows import JoinedCache, StackedArguments

Layer = Callable[..., Any]
Arguments = dict[str, Any]
SecondArguments = Callable[[int, Tensor, Mapping[str, Any]], tuple[Tensor, Arguments]]


class Step(Protocol):
    """One forward's way through the decoder layers."""

    def run(self, layer: int, forward: Layer, args: Sequence[Any], kwargs: Arguments) -> Any:
        """Return what a layer's call returns; `forward` is the layer's own."""
        ...


class UnderWay(threading.local):
    """What a thread has under way.

    Attributes:
        step: what becomes of its layers' calls; None leaves them alone.
        stacked: the forked step whose rows are in the layer that runs, until its attention is computed.
        one_pass: whether the forward may hold rows of both streams.
    """

    def __init__(self) -> None:
        self.step: Step | None = None
        self.stacked: Forked | None = None
        self.one_pass = False

    @contextmanager
    def stepping(self, step: Step) -> Iterator[None]:
        """Let `step` have the layers' calls while the context lasts."""
        before, self.step = self.step, step
        try:
            yield
        finally:
            self.step = before


class EveryLayerNoted(Exception):  # noqa: N818  # it is no error
    """Ends a forward of which the layers' arguments alone were wanted."""


class Noting:
    """Notes what each layer is given; no layer runs.

    Attributes:
        noted: by layer, the hidden state and the other arguments.

    Args:
        last: the last layer; there the forward ends by `EveryLayerNoted`.
        tuples: whether layers return tuples.
    """

    def __init__(self, last: int, tuples: bool) -> None:
        self.noted: dict[int, tuple[Tensor, Arguments]] = {}
        self._last = last
        self._tuples = tuples

    def run(self, layer: int, forward: Layer, args: Sequence[Any], kwargs: Arguments) -> Any:
        self.noted[layer] = (args[0], kwargs)
        if layer == self._last:
            raise EveryLayerNoted
        return (args[0],) if self._tuples else args[0]


class Seeing:
    """Runs each layer as it is, and sees what kind of thing it returns.

    Attributes:
        tuples: whether layers return tuples.
    """

    def __init__(self) -> None:
        self.tuples = False

    def run(self, layer: int, forward: Layer, args: Sequence[Any], kwargs: Arguments) -> Any:
        output = forward(*args, **kwargs)
        self.tuples = isinstance(output, tuple)
        return output


class Forked:
    """Both streams through one forward. From the layer where they part, each has rows of its own.

    Between layers the model sees the first stream's rows alone; the last layer returns those of both, so that the
    norm, the head and what a family does to token logits run once.

    Attributes:
        rows: of each stream.
        cache: of both, as stacked layers see it.
        mask: the second stream's, in the layer that runs.

    Args:
        rows: of each stream.
        layers: the first layer with rows of both, and the last layer.
        second: returns what the second stream enters a layer with, where its rows begin there, and its arguments.
        cache: of both.
        stacks: layers in which both streams' rows run at once; in the others one runs after the other.
        under_way: of this thread.
        plain: makes a context in which attention is nobody's.
    """

    def __init__(
        self,
        rows: int,
        layers: tuple[int, int],
        second: SecondArguments,
        cache: JoinedCache,
        stacks: frozenset[int],
        under_way: UnderWay,
        plain: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.rows = rows
        self.cache = cache
        self.mask: Tensor | None = None
        self._start, self._last = layers
        self._second = second
        self._stacks = stacks
        self._under_way = under_way
        self._plain = plain
        self._arguments = StackedArguments(rows)
        self._hidden: Tensor | None = None

    def run(self, layer: int, forward: Layer, args: Sequence[Any], kwargs: Arguments) -> Any:
        self._under_way.step = None  # what a layer calls itself is no layer of this walk
        try:
            return forward(*args, **kwargs) if layer < self._start else self._both(layer, forward, args, kwargs)
        finally:
            self._under_way.step = self

    def _both(self, layer: int, forward: Layer, args: Sequence[Any], kwargs: Arguments) -> Any:
        first = args[0]
        entering, others = self._second(layer, first, kwargs)
        second = entering if self._hidden is None else self._hidden
        stacked = self._arguments.of(kwargs, others, self.cache) if layer in self._stacks and len(args) == 1 else None
        if stacked is None:
            output = forward(*args, **kwargs)
            with self._plain():
                self._hidden = _hidden(forward(second, *args[1:], **others))
            both = torch.cat([_hidden(output), self._hidden]) if layer == self._last else None
            return output if both is None else _with_hidden(output, both)
        self.mask, self._under_way.stacked = others.get("attention_mask"), self
        try:
            output = forward(torch.cat([first, second]), **stacked)
        finally:
            self._under_way.stacked = None
        both = _hidden(output)
        self._hidden = both[self.rows :]
        return output if layer == self._last else _with_hidden(output, both[: self.rows])


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
