"""Names of a package whose modules are imported when a name is first asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], modules: str = ""
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__`.

    Args:
        package: its name.
        homes: module below the package -> the names that it brings, separated by spaces.
        modules: modules below the package that can be asked for as they are, separated by spaces.
    """
    home_of = {name: home for home, names in homes.items() for name in names.split()}
    _keep_names_from_modules(sys.modules[package], frozenset(home_of))

    def get(name: str) -> Any:
        if name in home_of:
            return getattr(import_module(f"{package}.{home_of[name]}"), name)
        if name in modules.split():
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted({*vars(sys.modules[package]), *home_of, *modules.split()})


def _keep_names_from_modules(package: ModuleType, names: frozenset[str]) -> None:
    """Let a module that is called as one of its names, as `attach` is, not stand in the package in that name's place.

    The import of a module sets it as an attribute of its package.
    """

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            if name in names and isinstance(value, ModuleType):
                value = getattr(value, name)
            super().__setattr__(name, value)

    package.__class__ = Package
