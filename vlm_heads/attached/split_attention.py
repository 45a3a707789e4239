"""The attention of rows of several streams: each attends to keys of its own, with edits of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads import attention
from vlm_heads.attached.layer_steps import UnderWay
from vlm_heads.attention import LayerRunner, PlainAttention


class SplitAttention:
    """Computes the attention of a model in which other streams may have rows of their own.

    Attributes:
        first: computes the first stream's attention; None leaves it plain.

    Args:
        under_way: says whether the layer that runs has rows of all streams.
        modules: whose attention it computes.
    """

    def __init__(self, under_way: UnderWay, modules: Sequence[nn.Module]) -> None:
        self.first: LayerRunner | None = None
        self._under_way = under_way
        self._modules = modules
        self._mine = _OfOneThread()

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Compute these modules' attention while the context lasts; who did before computes the first stream's."""
        self.first = attention.runner_of(self._modules[0])
        attention.bind(self._modules, self)
        try:
            yield
        finally:
            if self.in_place:  # what was attached inside may outlive what was attached around it
                attention.unbind(self._modules)
                if self.first is not None:
                    attention.bind(self._modules, self.first)

    @property
    def in_place(self) -> bool:
        """Whether nobody else computes the attention meanwhile."""
        return attention.runner_of(self._modules[0]) is self

    @property
    def paused(self) -> bool:
        """Whether forwards of this thread are plain and belong to no generation."""
        return self._mine.paused

    @paused.setter
    def paused(self, on: bool) -> None:
        self._mine.paused = on
        if self.first is not None:
            self.first.paused = on

    @property
    def looking(self) -> bool:
        """Whether a pass of the first stream's own runs, beside the model's answer."""
        return self.first is not None and self.first.looking

    def edits(self, module: nn.Module) -> bool:
        """Whether the first stream's attention may be changed in this module."""
        return self.first is not None and self.first.edits(module)

    def run(
        self,
        plain: PlainAttention,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        settings: dict[str, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output `[R, Tq, Hq, D]`, or `[n R, Tq, Hq, D]` of `n` streams; weights are the first stream's."""
        first = plain if self.first is None else self._edited(plain)
        step, self._under_way.stacked = self._under_way.stacked, None  # an edit may run layers of its own
        if step is None:
            return first(module, query, key, value, mask, **settings)
        queries = query.chunk(len(step.beside) + 1)
        assert step.cache.others, "an attention that only appends has updated its cache"
        output, weights = first(module, queries[0], key, value, mask, **settings)
        outputs = [output]
        for one, rows, states, own in zip(step.beside, queries[1:], step.cache.others, step.masks, strict=True):
            attend = one.attending
            if attend is None:
                outputs.append(plain(module, rows, *states, own, **settings)[0])
            else:
                outputs.append(attend(plain, module, rows, *states, own, settings)[0])
        return torch.cat(outputs), weights

    def _edited(self, plain: PlainAttention) -> PlainAttention:
        runner = self.first
        assert runner is not None

        def edited(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
        ) -> tuple[Tensor, Tensor | None]:
            return runner.run(plain, module, query, key, value, mask, settings)

        return edited


class _OfOneThread(threading.local):
    def __init__(self) -> None:
        self.paused = False
