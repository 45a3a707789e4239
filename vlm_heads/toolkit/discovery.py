"""Finds what is known by name: classes in the package's own folders, and those of other packages' entry points."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType, ModuleType
from typing import Any, Generic, TypeVar

from vlm_heads.names import unknown_method
from vlm_heads.toolkit.described import Described
from vlm_heads.toolkit.options import parse_options

Kind = TypeVar("Kind", bound=Described)


@dataclass(frozen=True)
class Discovered(Generic[Kind]):
    """What was found.

    Attributes:
        kinds: by name, in alphabetical order.
        broken: name -> why, for plug-ins that cannot be used.
    """

    kinds: Mapping[str, type[Kind]]
    broken: Mapping[str, str]

    def made(self, word: str, kinds: Mapping[str, type[Kind]], wanted: str) -> Kind:
        """Return what `name` or `name:option=value,option=value` describes; the inverse of `Described.word`.

        Args:
            word: to read.
            kinds: the kinds it may name.
            wanted: what they are called, for the message.

        Raises:
            BadOption: if the name or an option is unknown, or a value is out of its range; the nearest known is named.
        """
        name, _, options = word.partition(":")
        name = name.strip()
        kind: type[Any] | None = kinds.get(name)
        if kind is None:
            broken = self.broken.get(name)
            reason = f"; the plug-in of that name cannot be used: {broken}" if broken else ""
            raise unknown_method(name, kinds, wanted, reason)
        made: Kind = kind(**parse_options(kind, options, name))
        return made


def discover(base: type[Kind], folders: Sequence[ModuleType], group: str, wanted: str) -> Discovered[Kind]:
    """Return every subclass of `base` that says everything it has to.

    Args:
        base: of all kinds.
        folders: packages whose modules are looked into.
        group: of other packages' entry points.
        wanted: what subclasses are called, for the messages about plug-ins.
    """
    found: dict[str, type[Kind]] = {}
    broken: dict[str, str] = {}
    for folder in folders:
        for module in pkgutil.iter_modules(folder.__path__):
            for kind in _defined_in(importlib.import_module(f"{folder.__name__}.{module.name}"), base):
                assert kind.name not in found, f"two are called {kind.name}"
                found[kind.name] = kind
    for plug in entry_points(group=group):
        reason = _refusal(plug, found, base, wanted)
        if reason is None:
            kind = plug.load()
            found[kind.name] = kind
        else:
            broken[plug.name] = reason
    return Discovered(MappingProxyType(dict(sorted(found.items()))), broken)


def _refusal(plug: EntryPoint, found: Mapping[str, type[Kind]], base: type[Kind], wanted: str) -> str | None:
    """Return why another package's class cannot be used, or None where it can."""
    try:
        kind = plug.load()
    except Exception as failure:  # noqa: BLE001  # somebody else's import may fail in any way, and must not break ours
        return f"{plug.value} cannot be imported ({type(failure).__name__}: {failure})"
    if not isinstance(kind, type) or not issubclass(kind, base) or inspect.isabstract(kind):
        return f"{plug.value} is no subclass of {wanted} that says everything it has to"
    if not isinstance(getattr(kind, "name", None), str):
        return f"{plug.value} has no name"
    if kind.name in found:
        return f"{plug.value} is called {kind.name!r}, as another method is"
    return None


def _defined_in(module: ModuleType, base: type[Kind]) -> Iterator[type[Kind]]:
    for value in vars(module).values():
        mine = isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, base)
        if mine and not inspect.isabstract(value):
            yield value
