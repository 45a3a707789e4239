"""Switches a language model to our attention function, and back."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vlm_heads import attention
from vlm_heads.attached.tracking import Tracker
from vlm_heads.errors import AlreadyAttached, UnsupportedModel
from vlm_heads.families import Anatomy, caps_logits
from vlm_heads.models.placement import require_one_device

_attaching = threading.Lock()
_log = logging.getLogger(__name__)


@contextmanager
def installed(anatomy: Anatomy, tracker: Tracker) -> Iterator[None]:
    """Switch the language model to our attention function and follow its forwards; undo both."""
    modules = list(anatomy.attentions.values())
    require_one_device(modules)
    with _attaching:
        if any(attention.is_bound(module) for module in modules):
            raise AlreadyAttached("the model is inside another attach; give all interventions to one attach")
        before = _configs(anatomy)
        attention.bind(modules, tracker)
    try:
        for config, own, base in before:
            # the own value only: a plain string would switch nested configs too
            config._attn_implementation = {"": attention.registered_name(base)}
            if own != base:
                _say_once(own, base)
        with tracker.following():
            yield
    finally:
        for config, own, _ in before:
            config._attn_implementation = {"": own}
        attention.unbind(modules)


def _configs(anatomy: Anatomy) -> list[tuple[Any, str, str]]:
    """Return every config that the decoder and its attentions read, each once.

    With each come its attention implementation, and the one that plain attention is computed by meanwhile.

    Raises:
        UnsupportedModel: if one of them uses an attention whose masks and results we do not know.
    """
    modules = [anatomy.decoder, *anatomy.attentions.values()]
    configs = {id(config): config for module in modules if (config := getattr(module, "config", None)) is not None}
    found = [(config, attention.base_of(config._attn_implementation)) for config in configs.values()]
    return [(config, own, _known(own, capped=caps_logits(anatomy))) for config, own in found]


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
