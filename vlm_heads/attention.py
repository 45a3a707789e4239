"""The one function, and the one mask function, that transformers calls in place of its own while attached.

State is found by attention module, never by a context variable: a streamer generates in another thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PlainAttention = Callable[..., tuple[Tensor, Tensor | None]]
Attending = Callable[..., tuple[Tensor, Tensor | None]]  # as `LayerRunner.run`

# The kinds of plain attention whose masks we understand. The model keeps the one it came with, so attaching alone
# changes no bit of its output.
MASKS: dict[str, Callable[..., Any]] = {"sdpa": sdpa_mask, "eager": eager_mask}

_PREFIX = "vlm_heads_"


class LayerRunner(Protocol):
    """What stands in for the attention function in one model.

    Attributes:
        paused: while set, this thread's forwards of the model are plain and leave no trace.
    """

    paused: bool

    @property
    def looking(self) -> bool:
        """Whether a pass of its own runs, beside the model's answer."""
        ...

    def edits(self, module: nn.Module) -> bool:
        """Whether the attention of this module may be changed."""
        ...

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
        """Return the output `[B, Tq, Hq, D]` and, where plain attention gives them, the weights."""
        ...


_RUNNERS: WeakKeyDictionary[nn.Module, LayerRunner] = WeakKeyDictionary()


class _OfOneThread(threading.local):
    """What computes the attention of forwards that belong to no generation; a thread runs them from end to end."""

    attend: Attending | None = None


_ASIDE = _OfOneThread()


def registered_name(base: str) -> str:
    """Return the name under which our function stands in for `base`; register it on first use."""
    name = f"{_PREFIX}{base}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _stand_in(base))
        # Without this one the mask is silently None, and padded batches go wrong.
        AttentionMaskInterface.register(name, MASKS[base])
    return name


def base_of(name: str) -> str:
    """Return the attention that our function of this name stands in for; any other name as it is.

    A config that was copied inside an attach still names ours.
    """
    return name.removeprefix(_PREFIX)


def bind(modules: Iterable[nn.Module], runner: LayerRunner) -> None:
    """Let `runner` compute the attention of these modules."""
    for module in modules:
        _RUNNERS[module] = runner


def unbind(modules: Iterable[nn.Module]) -> None:
    """Forget who computes the attention of these modules."""
    for module in modules:
        _RUNNERS.pop(module, None)


def runner_of(module: nn.Module) -> LayerRunner | None:
    """Return who computes the attention of this module; None where nobody does."""
    return _RUNNERS.get(module)


def is_bound(module: nn.Module) -> bool:
    """Whether somebody computes the attention of this module already."""
    return module in _RUNNERS


def is_edited(module: nn.Module) -> bool:
    """Whether somebody may change the attention of this module."""
    runner = _RUNNERS.get(module)
    return runner is not None and runner.edits(module)


@contextmanager
def plain_forwards(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While the context lasts, let forwards through these modules be plain and belong to no generation."""
    runners = [runner for module in modules if (runner := _RUNNERS.get(module)) is not None and not runner.paused]
    for runner in runners:
        runner.paused = True
    try:
        yield
    finally:
        for runner in runners:
            runner.paused = False


@contextmanager
def forwards_aside(modules: Iterable[nn.Module], attend: Attending | None) -> Iterator[None]:
    """While the context lasts, let forwards of this thread belong to no generation.

    Args:
        modules: whose attention they ask for.
        attend: computes it; None leaves it plain.
    """
    before, _ASIDE.attend = _ASIDE.attend, attend
    try:
        with plain_forwards(modules):
            yield
    finally:
        _ASIDE.attend = before


def _stand_in(base: str) -> PlainAttention:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
    ) -> tuple[Tensor, Tensor | None]:
        plain = _plain_attention(base, module)
        runner = _RUNNERS.get(module)
        if runner is None or runner.paused:
            if _ASIDE.attend is not None:
                return _ASIDE.attend(plain, module, query, key, value, attention_mask, settings)
            return plain(module, query, key, value, attention_mask, **settings)
        return runner.run(plain, module, query, key, value, attention_mask, settings)

    # a compiled model calls it between two graphs: its state changes from step to step
    between_graphs: PlainAttention = torch.compiler.disable(attention)  # type: ignore[no-untyped-call]
    return between_graphs


def _plain_attention(base: str, module: nn.Module) -> PlainAttention:
    """Return the attention function that the module would have used."""
    if base == "eager":
        eager: PlainAttention = sys.modules[type(module).__module__].eager_attention_forward
        return eager
    plain: PlainAttention = ALL_ATTENTION_FUNCTIONS[base]
    return plain
