"""Every scorer by its name. Those of other packages are found by the entry-point group `vlm_heads.scorers`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from vlm_heads.names import SCORERS
from vlm_heads.scorers.base import Scorer
from vlm_heads.toolkit.discovery import Discovered, discover


def known_scorers() -> Mapping[str, type[Scorer]]:
    """Return every scorer by its name, in alphabetical order, ours and others'."""
    return _found().kinds


def parse_scorer(word: str) -> Scorer:
    """Return the scorer that `name` or `name:option=value,option=value` describes; the inverse of `Scorer.word`.

    Raises:
        BadOption: if the name or an option is unknown, or a value is out of its range; the nearest known is named.
    """
    return _found().made(word, known_scorers(), "scorer")


@cache
def _found() -> Discovered[Scorer]:
    return discover(Scorer, [import_module(__package__)], SCORERS, "Scorer")  # type: ignore[type-abstract]  # their base
