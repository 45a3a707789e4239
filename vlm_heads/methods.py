"""The interventions in this folder, found by looking, and made from a word as `vhr:gain=1.5,layers=paper`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import vlm_heads.interventions
from vlm_heads.errors import BadOption, suggest
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.options import parse_options


@cache
def known_interventions() -> dict[str, type[Any]]:
    """Return every intervention class by its command line name, in alphabetical order.

    A new one is a file in the folder; nothing else mentions it.
    """
    found: dict[str, type[Any]] = {}
    for module in pkgutil.iter_modules(vlm_heads.interventions.__path__):
        for kind in _defined_in(importlib.import_module(f"vlm_heads.interventions.{module.name}")):
            assert kind.name not in found, f"two interventions are called {kind.name}"
            found[kind.name] = kind
    return dict(sorted(found.items()))


def parse_intervention(text: str) -> Intervention:
    """Return the intervention that `name` or `name:option=value,option=value` describes.

    Raises:
        BadOption: if the name or an option is unknown, or a value is out of its range; the nearest known is named.
    """
    name, _, options = text.partition(":")
    known = known_interventions()
    kind = known.get(name.strip())
    if kind is None:
        raise BadOption(f"no intervention {name!r}{suggest(name, known)}; known: {', '.join(known)}")
    made: Intervention = kind(**parse_options(kind, options, name.strip()))
    return made


def _defined_in(module: ModuleType) -> Iterator[Any]:
    for value in vars(module).values():
        # by its bases: a protocol with fields cannot be asked with issubclass
        if isinstance(value, type) and value.__module__ == module.__name__ and Intervention in value.__mro__[1:]:
            yield value
