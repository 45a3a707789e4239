"""Reports of two runs, side by side."""

from typing import Any


def unlike(one: Any, other: Any, place: str = "") -> set[str]:
    """Return where two reports differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = one.keys() | other.keys()
        return {
            found for name in names for found in unlike(one.get(name), other.get(name), f"{place}.{name}".strip("."))
        }
    return set() if one == other else {place}
