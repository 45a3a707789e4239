"""Switches a language model to our attention function, and back."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from torch import nn

from vlm_heads import attention
from vlm_heads.attached.split_attention import SplitAttention
from vlm_heads.attached.tracking import Tracker
from vlm_heads.errors import AlreadyAttached, UnsupportedModel
from vlm_heads.families import Anatomy, caps_logits
from vlm_heads.models.placement import require_one_device

_attaching = threading.Lock()
_held: WeakSet[nn.Module] = WeakSet()
_log = logging.getLogger(__name__)


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Hold a model for one attach.

    Two would undo each other's changes where they end in another order than they began.

    Raises:
        AlreadyAttached: if another attach holds it.
    """
    with _attaching:
        if model in _held:
            raise AlreadyAttached("the model is inside another attach; give all methods to one attach")
        _held.add(model)
    try:
        yield
    finally:
        _held.discard(model)


@contextmanager
def installed(anatomy: Anatomy, tracker: Tracker) -> Iterator[None]:
    """Switch the language model to our attention function and follow its forwards; undo both."""
    modules = list(anatomy.attentions.values())
    require_one_device(modules)
    with _attaching:
        around = attention.runner_of(modules[0])
        if around is not None and not (isinstance(around, SplitAttention) and around.first is None):
            raise AlreadyAttached("the model is inside another attach; give all methods to one attach")
        configs = _configs(anatomy, attached=around is not None)
        attention.bind(modules, tracker)
    try:
        with _switched(configs), tracker.following():
            yield
    finally:
        attention.unbind(modules)
        if around is not None:  # a contrast alone, which goes on by itself
            attention.bind(modules, around)


@contextmanager
def switched(anatomy: Anatomy) -> Iterator[None]:
    """Switch the language model to our attention function, which is plain where nobody is bound; undo it."""
    with _switched(_configs(anatomy, attached=False)):
        yield


@contextmanager
def _switched(configs: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
    try:
        for config, own, base in configs:
            # this config's own value: a plain string would switch nested configs too
            config._attn_implementation = {"": attention.registered_name(base)}
            if attention.base_of(own) != base:
                _say_once(own, base)
        yield
    finally:
        for config, own, _ in configs:
            config._attn_implementation = {"": own}


def _configs(anatomy: Anatomy, attached: bool) -> list[tuple[Any, str, str]]:
    """Return every config that the decoder and its attentions read, each once.

    With each come the attention implementation that it is left with, and the one that plain attention is computed by
    meanwhile. It is left with ours where something else is attached.

    Raises:
        UnsupportedModel: if one of them uses an attention whose masks and results we do not know.
    """
    modules = [anatomy.decoder, *anatomy.attentions.values()]
    configs = {id(config): config for module in modules if (config := getattr(module, "config", None)) is not None}
    capped = caps_logits(anatomy)
    found = [(config, str(config._attn_implementation)) for config in configs.values()]
    bases = [(config, own, attention.base_of(own)) for config, own in found]
    return [(config, own if attached else base, _known(base, capped)) for config, own, base in bases]


def _known(own: str, capped: bool) -> str:
    """Return the attention, of those whose masks we know, that computes the same as this one to rounding."""
    if own in attention.MASKS:
        return own
    if own.startswith("flash_attention") or "flash-attn" in own or own == "flex_attention":
        return "eager" if capped else "sdpa"  # SDPA knows no cap on logits
    raise UnsupportedModel(
        f"the language model uses attn_implementation={own!r}; load it with 'sdpa' (or 'eager'), or call "
        "model.set_attn_implementation('sdpa')"
    )


@functools.cache
def _say_once(own: str, base: str) -> None:
    _log.info("inside attach the language model computes attention by %s in place of %s", base, own)
