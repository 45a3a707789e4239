"""Switches a language model to our attention function, and back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vlm_heads import attention
from vlm_heads.attached.tracking import Tracker
from vlm_heads.errors import AlreadyAttached, UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.models.placement import require_one_device

_attaching = threading.Lock()


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
        for config, base in before:
            # this config's own value: a plain string would switch nested configs too
            config._attn_implementation = {"": attention.registered_name(base)}
        with tracker.following():
            yield
    finally:
        for config, base in before:
            config._attn_implementation = {"": base}
        attention.unbind(modules)


def _configs(anatomy: Anatomy) -> list[tuple[Any, str]]:
    """Return every config that the decoder and its attentions read, each once, with its attention implementation.

    Raises:
        UnsupportedModel: if one of them uses an attention whose masks and results we do not know.
    """
    modules = [anatomy.decoder, *anatomy.attentions.values()]
    configs = {id(config): config for module in modules if (config := getattr(module, "config", None)) is not None}
    found = [(config, attention.base_of(config._attn_implementation)) for config in configs.values()]
    for _, base in found:
        if base not in attention.MASKS:
            raise UnsupportedModel(
                f"the language model uses attn_implementation={base!r}; load it with 'sdpa' (or 'eager'), or call "
                "model.set_attn_implementation('sdpa')"
            )
    return found
