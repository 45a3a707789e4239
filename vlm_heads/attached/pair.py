"""One call of `generate` and its second stream: which forwards hold rows of both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from vlm_heads import attention
from vlm_heads.attached.layer_steps import EveryLayerNoted, Forked, Layer, Noting, SecondArguments, Seeing, UnderWay
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.split_attention import SplitAttention
from vlm_heads.attached.stacked_rows import JoinedCache
from vlm_heads.families import Anatomy

_BY_ROW = ("logits", "hidden_states")  # what of a forward's output has rows of both streams


@dataclass(frozen=True)
class Parts:
    """What a pair needs of the model.

    Attributes:
        model: that generates.
        anatomy: of it.
        runner: computes its attention.
        under_way: what each thread has under way.
        stacks: layers in which rows of both streams can run at once.
    """

    model: nn.Module
    anatomy: Anatomy
    runner: SplitAttention
    under_way: UnderWay
    stacks: frozenset[int]


class Pair:
    """The first stream of one call of `generate`, and the second beside it.

    Attributes:
        stream: the second one.
        why: why it runs forwards of its own, in words; empty where it does not.

    Args:
        stream: the second one.
        parts: of the model.
        why: known from the start.
    """

    def __init__(self, stream: SecondStream, parts: Parts, why: str = "") -> None:
        self.why = why
        self.stream = stream
        self._parts = parts
        self._cache: Cache | None = None
        self._rows = 0
        self._tuples = False

    def end(self) -> str:
        """Leave the first stream's cache as it would be without a second one; return `why`."""
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
        """Run the prompt: of both streams at once where they begin alike, else of the first alone."""
        self.why = _why_not(self._parts.model, kwargs, self.stream)
        if self.why:
            return forward(**kwargs)
        cache: Cache = kwargs["past_key_values"]
        self._cache, self._rows = cache, kwargs["input_ids"].shape[0]
        self._follow_reordering(cache)
        beside = self.stream.beside_prompt(self._rows)
        if beside is not None:
            return self._both(forward, kwargs, beside)
        seeing = Seeing()
        with self._parts.under_way.stepping(seeing):
            output = forward(**kwargs)
        self._tuples = seeing.tuples
        return output

    def _token(self, forward: Layer, kwargs: dict[str, Any]) -> Any:
        """Run one more token of every row, of both streams at once."""
        beside, under_way = self.stream.beside_token(kwargs["input_ids"], self._noted), self._parts.under_way
        under_way.one_pass = True
        try:
            return self._both(forward, kwargs, beside)
        finally:
            under_way.one_pass = False

    def _both(self, forward: Layer, kwargs: dict[str, Any], beside: SecondArguments) -> ModelOutput:
        parts, stream, rows = self._parts, self.stream, self._rows
        assert self._cache is not None, "the first stream has begun"
        assert stream.cache is not None, "the second stream has begun"
        step = Forked(
            rows,
            (stream.start, parts.anatomy.depth - 1),
            beside,
            JoinedCache(self._cache, stream.cache, rows),
            parts.stacks,
            parts.under_way,
            partial(attention.plain_forwards, parts.anatomy.attentions.values()),
        )
        with parts.under_way.stepping(step):
            output: ModelOutput = forward(**kwargs)
        stream.tell(output["logits"][rows:, -1], output)
        for name in _BY_ROW:
            if output.get(name) is not None:
                output[name] = _first_rows(output[name], rows)
        return output

    def _noted(self, forward: Callable[[], object]) -> SecondArguments:
        """Return what a forward of the second stream's own would give each layer; no layer runs."""
        noting = Noting(self._parts.anatomy.depth - 1, self._tuples)
        with self._parts.under_way.stepping(noting), suppress(EveryLayerNoted):
            forward()
        return lambda layer, *_: noting.noted[layer]

    def _goes_on(self, kwargs: dict[str, Any]) -> bool:
        """Whether a forward runs one more token of every row, and the second stream is there."""
        ids = kwargs.get("input_ids")
        one_each = isinstance(ids, Tensor) and ids.shape == (self._rows, 1)
        return kwargs.get("past_key_values") is self._cache and one_each and self.stream.cache is not None

    def _follow_reordering(self, cache: Cache) -> None:
        reorder, stream = cache.reorder_cache, self.stream

        def reorder_both(parents: Tensor) -> None:
            reorder(parents)
            stream.reorder(parents)

        vars(cache)["reorder_cache"] = reorder_both


def _why_not(model: nn.Module, kwargs: dict[str, Any], stream: SecondStream) -> str:
    """Return why the forwards of a generation that begins so cannot hold rows of both streams; empty where they can."""
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
    if stream.begins_with_the_first and cache.get_seq_length() > 0:
        return "the conversation goes on from a cache"
    return ""


def _first_rows(value: Any, rows: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_first_rows(one, rows) for one in value)
    return value[:rows] if isinstance(value, Tensor) and value.shape[0] == 2 * rows else value
