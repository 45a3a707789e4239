"""Every method by its name, and everything that a method of your own is made of.

A method is a subclass of `Intervention`, `Contrast` or `Check`. Those of the package are found by looking into its
folders. Those of other packages are found by the entry-point group `vlm_heads.methods`:

    [project.entry-points."vlm_heads.methods"]
    mine = "my_package.my_module:MyMethod"
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType, ModuleType
from typing import Any

from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass, Redistribution

import vlm_heads.checks
import vlm_heads.contrasts
import vlm_heads.interventions
from vlm_heads.asking.named import Named
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.checks.base import Check
from vlm_heads.contrast import ContrastProcessor
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.interventions.base import Intervention
from vlm_heads.names import METHODS, unknown_method
from vlm_heads.toolkit.head_choice import HeadChoice, HeadChooser, head_awareness
from vlm_heads.toolkit.head_list import GainList, GainListForm, HeadList, HeadListForm, layers_of_heads
from vlm_heads.toolkit.layer_sets import Layers, layers_option, resolve_layers
from vlm_heads.toolkit.method import Method, Paper
from vlm_heads.toolkit.options import Option, option, options_of, parse_options, require_number
from vlm_heads.toolkit.row_attention import (
    image_keys,
    last_row,
    over_keys,
    require_image_keys,
    row_logits,
    row_weights,
    text_after_image,
)

__all__ = [
    "CLASS_COUNT",
    "Asked",
    "AttentionCall",
    "AttentionPlan",
    "Check",
    "Contrast",
    "ContrastProcessor",
    "GainList",
    "GainListForm",
    "HeadChoice",
    "HeadChooser",
    "HeadList",
    "HeadListForm",
    "Intervention",
    "KeyClass",
    "Layers",
    "Method",
    "Named",
    "Option",
    "Paper",
    "Redistribution",
    "SecondStream",
    "Watcher",
    "head_awareness",
    "image_keys",
    "known_checks",
    "known_contrasts",
    "known_interventions",
    "known_methods",
    "last_row",
    "layers_of_heads",
    "layers_option",
    "option",
    "options_of",
    "over_keys",
    "parse_intervention",
    "parse_method",
    "parse_options",
    "require_image_keys",
    "require_number",
    "resolve_layers",
    "row_logits",
    "row_weights",
    "text_after_image",
]


def known_methods() -> Mapping[str, type[Method]]:
    """Return every method by its name, in alphabetical order: interventions, contrasts and checks, ours and others'."""
    return _found()[0]


def known_interventions() -> dict[str, type[Intervention]]:
    """Return every intervention by its name, in alphabetical order."""
    return {name: kind for name, kind in known_methods().items() if issubclass(kind, Intervention)}


def known_contrasts() -> dict[str, type[Contrast]]:
    """Return every contrast by its name, in alphabetical order."""
    return {name: kind for name, kind in known_methods().items() if issubclass(kind, Contrast)}


def known_checks() -> dict[str, type[Check]]:
    """Return every check by its name, in alphabetical order."""
    return {name: kind for name, kind in known_methods().items() if issubclass(kind, Check)}


def parse_method(word: str) -> Method:
    """Return the method that `name` or `name:option=value,option=value` describes; the inverse of `Method.word`.

    Raises:
        BadOption: if the name or an option is unknown, or a value is out of its range; the nearest known is named.
    """
    return _made(word, known_methods(), "intervention, contrast or check")


def parse_intervention(word: str) -> Intervention:
    """Return the intervention that a word describes; see `parse_method`.

    Raises:
        BadOption: as `parse_method`, and if the word names a contrast.
    """
    made = _made(word, known_interventions(), "intervention")
    assert isinstance(made, Intervention), "the registry holds subclasses"
    return made


def _made(word: str, known: Mapping[str, type[Method]], wanted: str) -> Method:
    name, _, options = word.partition(":")
    name = name.strip()
    kind: type[Any] | None = known.get(name)
    if kind is None:
        broken = _found()[1].get(name)
        reason = f"; the plug-in of that name cannot be used: {broken}" if broken else ""
        raise unknown_method(name, known, wanted, reason)
    made: Method = kind(**parse_options(kind, options, name))
    return made


@cache
def _found() -> tuple[Mapping[str, type[Method]], Mapping[str, str]]:
    """Return name -> method, and name -> why for plug-ins that cannot be used."""
    found: dict[str, type[Method]] = {}
    broken: dict[str, str] = {}
    for folder in (vlm_heads.interventions, vlm_heads.contrasts, vlm_heads.checks):
        for module in pkgutil.iter_modules(folder.__path__):
            for kind in _defined_in(importlib.import_module(f"{folder.__name__}.{module.name}")):
                assert kind.name not in found, f"two methods are called {kind.name}"
                found[kind.name] = kind
    for plug in entry_points(group=METHODS):
        reason = _refusal(plug, found)
        if reason is None:
            kind = plug.load()
            found[kind.name] = kind
        else:
            broken[plug.name] = reason
    return MappingProxyType(dict(sorted(found.items()))), broken


def _refusal(plug: EntryPoint, found: Mapping[str, type[Method]]) -> str | None:
    """Return why another package's method cannot be used, or None where it can."""
    try:
        kind = plug.load()
    except Exception as failure:  # noqa: BLE001  # somebody else's import may fail in any way, and must not break ours
        return f"{plug.value} cannot be imported ({type(failure).__name__}: {failure})"
    if not isinstance(kind, type) or not issubclass(kind, Method) or inspect.isabstract(kind):
        return f"{plug.value} is no subclass of Intervention, Contrast or Check that says everything it has to"
    if not isinstance(getattr(kind, "name", None), str):
        return f"{plug.value} has no name"
    if kind.name in found:
        return f"{plug.value} is called {kind.name!r}, as another method is"
    return None


def _defined_in(module: ModuleType) -> Iterator[type[Method]]:
    for value in vars(module).values():
        mine = isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, Method)
        if mine and not inspect.isabstract(value):
            yield value
