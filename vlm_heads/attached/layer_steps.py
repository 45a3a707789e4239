"""What becomes of a decoder layer's call while several streams go through one forward."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vlm_heads.attached.stacked_rows import JoinedCache, StackedArguments
from vlm_heads.attention import Attending

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
        one_pass: whether the forward may hold rows of all streams.
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


class Beside(NamedTuple):
    """One stream beside the first, in one forward.

    Attributes:
        arguments: returns what it enters a layer with, where its rows begin there, and its arguments.
        attending: computes the attention of its rows; None leaves it plain.
        alone: makes a context in which forwards are its own.
    """

    arguments: SecondArguments
    attending: Attending | None
    alone: Callable[[], AbstractContextManager[object]]


class Forked:
    """All streams through one forward. From the layer where they part, each has rows of its own.

    Between layers the model sees the first stream's rows alone; the last layer returns those of all, so that the
    norm, the head and what a family does to token logits run once.

    Attributes:
        rows: of each stream.
        cache: of all, as stacked layers see it.
        beside: the streams beside the first.
        masks: theirs, in the layer that runs.

    Args:
        rows: of each stream.
        layers: the first layer with rows of all, and the last layer.
        beside: the streams beside the first.
        cache: of all.
        stacks: layers in which all streams' rows run at once; in the others one runs after the other.
        under_way: of this thread.
    """

    def __init__(
        self,
        rows: int,
        layers: tuple[int, int],
        beside: Sequence[Beside],
        cache: JoinedCache,
        stacks: frozenset[int],
        under_way: UnderWay,
    ) -> None:
        self.rows = rows
        self.cache = cache
        self.beside = beside
        self.masks: list[Tensor | None] = []
        self._start, self._last = layers
        self._stacks = stacks
        self._under_way = under_way
        self._arguments = StackedArguments(rows)
        self._hidden: list[Tensor] | None = None

    def run(self, layer: int, forward: Layer, args: Sequence[Any], kwargs: Arguments) -> Any:
        self._under_way.step = None  # what a layer calls itself is no layer of this walk
        try:
            return forward(*args, **kwargs) if layer < self._start else self._both(layer, forward, args, kwargs)
        finally:
            self._under_way.step = self

    def _both(self, layer: int, forward: Layer, args: Sequence[Any], kwargs: Arguments) -> Any:
        given = [one.arguments(layer, args[0], kwargs) for one in self.beside]
        hidden = [entering for entering, _ in given] if self._hidden is None else self._hidden
        others = [arguments for _, arguments in given]
        stacked = self._arguments.of(kwargs, others, self.cache) if layer in self._stacks and len(args) == 1 else None
        if stacked is None:
            return self._one_by_one(layer, forward, args, kwargs, hidden, others)
        self.masks, self._under_way.stacked = [one.get("attention_mask") for one in others], self
        try:
            output = forward(torch.cat([args[0], *hidden]), **stacked)
        finally:
            self._under_way.stacked = None
        first, *self._hidden = _hidden(output).chunk(len(hidden) + 1)
        return output if layer == self._last else _with_hidden(output, first)

    def _one_by_one(
        self,
        layer: int,
        forward: Layer,
        args: Sequence[Any],
        kwargs: Arguments,
        hidden: Sequence[Tensor],
        others: Sequence[Arguments],
    ) -> Any:
        output = forward(*args, **kwargs)
        self._hidden = []
        for one, entering, arguments in zip(self.beside, hidden, others, strict=True):
            with one.alone():
                self._hidden.append(_hidden(forward(entering, *args[1:], **arguments)))
        return _with_hidden(output, torch.cat([_hidden(output), *self._hidden])) if layer == self._last else output


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
