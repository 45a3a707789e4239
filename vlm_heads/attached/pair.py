"""One call of `generate` and the streams beside it: which forwards hold rows of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from vlm_heads.attached.layer_steps import (
    Beside,
    EveryLayerNoted,
    Forked,
    Layer,
    Noting,
    SecondArguments,
    Seeing,
    UnderWay,
)
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.split_attention import SplitAttention
from vlm_heads.attached.stacked_rows import JoinedCache
from vlm_heads.families import Anatomy

_BY_ROW = ("logits", "hidden_states")  # what of a forward's output has rows of all streams


@dataclass(frozen=True)
class Parts:
    """What a pair needs of the model.

    Attributes:
        model: that generates.
        anatomy: of it.
        runner: computes its attention.
        under_way: what each thread has under way.
        stacks: layers in which rows of all streams can run at once.
    """

    model: nn.Module
    anatomy: Anatomy
    runner: SplitAttention
    under_way: UnderWay
    stacks: frozenset[int]


class Pair:
    """The first stream of one call of `generate`, and those beside it.

    Attributes:
        streams: those beside it.
        why: why they run forwards of their own, in words; empty where they do not.

    Args:
        streams: those beside it; one that begins with the first is alone.
        parts: of the model.
        why: known from the start.
    """

    def __init__(self, streams: Sequence[SecondStream], parts: Parts, why: str = "") -> None:
        self.why = why
        self.streams = streams
        self._parts = parts
        self._cache: Cache | None = None
        self._rows = 0
        self._tuples = False

    def end(self) -> str:
        """Leave the first stream's cache as it would be without others; return `why`."""
        if self._cache is not None:
            vars(self._cache).pop("reorder_cache", None)
        return self.why

    def forward(self, forward: Layer, kwargs: dict[str, Any]) -> Any:
        """Return what a forward of the model gives, the first stream's rows alone."""
        runner = self._parts.runner
        if self.why or runner.paused or runner.looking or not runner.in_place:
            return forward(**kwargs)
        if self._cache is None:
            return self._prompt(forward, kwargs)
        return self._token(forward, kwargs) if self._goes_on(kwargs) else forward(**kwargs)

    def _prompt(self, forward: Layer, kwargs: dict[str, Any]) -> Any:
        """Run the prompt: of all streams at once where they begin alike, else of the first alone."""
        self.why = _why_not(self._parts.model, kwargs, self.streams)
        if self.why:
            return forward(**kwargs)
        cache: Cache = kwargs["past_key_values"]
        self._cache, self._rows = cache, kwargs["input_ids"].shape[0]
        self._follow_reordering(cache)
        found = [arguments for one in self.streams if (arguments := one.beside_prompt(self._rows)) is not None]
        if found:
            assert len(found) == len(self.streams) == 1, "a stream that begins with the first is alone beside it"
            return self._all(forward, kwargs, found)
        seeing = Seeing()
        with self._parts.under_way.stepping(seeing):
            output = forward(**kwargs)
        self._tuples = seeing.tuples
        return output

    def _token(self, forward: Layer, kwargs: dict[str, Any]) -> Any:
        """Run one more token of every row, of all streams at once."""
        under_way = self._parts.under_way
        arguments = [one.beside_token(kwargs["input_ids"], self._noted) for one in self.streams]
        under_way.one_pass = True
        try:
            return self._all(forward, kwargs, arguments)
        finally:
            under_way.one_pass = False

    def _all(self, forward: Layer, kwargs: dict[str, Any], arguments: Sequence[SecondArguments]) -> ModelOutput:
        parts, rows = self._parts, self._rows
        assert self._cache is not None, "the first stream has begun"
        beside = [
            Beside(its, one.attending, one.attending_alone) for one, its in zip(self.streams, arguments, strict=True)
        ]
        layers = (self.streams[0].start, parts.anatomy.depth - 1)
        caches = [cache for one in self.streams if (cache := one.cache) is not None]
        step = Forked(rows, layers, beside, JoinedCache(self._cache, caches), parts.stacks, parts.under_way)
        with parts.under_way.stepping(step):
            output: ModelOutput = forward(**kwargs)
        told = output["logits"][:, -1].chunk(len(beside) + 1)[1:]
        for one, logits in zip(self.streams, told, strict=True):
            one.tell(logits, output)
        for name in _BY_ROW:
            if output.get(name) is not None:
                output[name] = _first_rows(output[name], rows, len(beside) + 1)
        return output

    def _noted(self, forward: Callable[[], object]) -> SecondArguments:
        """Return what a forward of the second stream's own would give each layer; no layer runs."""
        noting = Noting(self._parts.anatomy.depth - 1, self._tuples)
        with self._parts.under_way.stepping(noting), suppress(EveryLayerNoted):
            forward()
        return lambda layer, *_: noting.noted[layer]

    def _goes_on(self, kwargs: dict[str, Any]) -> bool:
        """Whether a forward runs one more token of every row, and all streams are there."""
        ids = kwargs.get("input_ids")
        one_each = isinstance(ids, Tensor) and ids.shape == (self._rows, 1)
        begun = all(one.cache is not None for one in self.streams)
        return kwargs.get("past_key_values") is self._cache and one_each and begun

    def _follow_reordering(self, cache: Cache) -> None:
        reorder, streams = cache.reorder_cache, self.streams

        def reorder_all(parents: Tensor) -> None:
            reorder(parents)
            for one in streams:
                one.reorder(parents)

        vars(cache)["reorder_cache"] = reorder_all


def _why_not(model: nn.Module, kwargs: dict[str, Any], streams: Sequence[SecondStream]) -> str:
    """Return why the forwards of a generation that begins so cannot hold rows of all streams; empty where they can."""
    cache = kwargs.get("past_key_values")
    if cache is None:
        return "nothing is cached"
    if type(cache) is not DynamicCache:
        return f"the cache is a {type(cache).__name__}"
    if cache.offloading:
        return "the cache is offloaded"
    if kwargs.get("input_ids") is None:
        return "the prompt came as embeddings"
    if hasattr(model, "_reorder_cache"):
        return "the family reorders its beams in a way of its own"
    if any(one.begins_with_the_first for one in streams) and cache.get_seq_length() > 0:
        return "the conversation goes on from a cache"
    return ""


def _first_rows(value: Any, rows: int, streams: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_first_rows(one, rows, streams) for one in value)
    return value[:rows] if isinstance(value, Tensor) and value.shape[0] == streams * rows else value
