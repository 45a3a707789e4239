"""Switches a language model to our attention function, and back."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from vlm_heads import attention
from vlm_heads.attached.split_attention import SplitAttention
from vlm_heads.attached.tracking import Tracker
from vlm_heads.errors import AlreadyAttached, UnsupportedModel
from vlm_heads.families import Anatomy, caps_logits
from vlm_heads.models.placement import require_one_device

_attaching = threading.Lock()
_held: WeakKeyDictionary[nn.Module, list[_Holder]] = WeakKeyDictionary()
_log = logging.getLogger(__name__)


class _Holder:
    """One attach that holds a model.

    Attributes:
        shares: whether another may be attached around it or inside it: a contrast goes on by itself.
    """

    def __init__(self, shares: bool) -> None:
        self.shares = shares


@contextmanager
def holding(model: nn.Module, *, shares: bool) -> Iterator[Callable[[], None]]:
    """Hold a model for an attach, and give what raises `AlreadyAttached` while another is inside this one.

    Those that ended in another order than they began would leave each other's changes behind.

    Raises:
        AlreadyAttached: if one holds it that this one cannot be beside.
    """
    holder = _Holder(shares)
    with _attaching:
        held = _held.setdefault(model, [])
        if held and not (shares and all(one.shares for one in held)):
            raise AlreadyAttached("the model is inside another attach; give all methods to one attach")
        held.append(holder)

    def require_innermost() -> None:
        if held[-1] is not holder:
            raise AlreadyAttached(
                "another attach was made inside this one and is still in place: detach that one first"
            )

    try:
        yield require_innermost
    finally:
        held.remove(holder)


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
