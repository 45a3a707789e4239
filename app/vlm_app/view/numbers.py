"""Figures of a comparison as text, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def share(value: float | None) -> str:
    """Return a fraction in percent, or a number above 1 as it is; empty for None."""
    return "" if value is None else f"{100 * value:.1f}" if value <= 1 else f"{value:.1f}"


def signed(value: float | None) -> str:
    """Return a difference of fractions in percent, with its sign."""
    return "–" if value is None else f"{100 * value:+.1f}"


def interval(row: Mapping[str, Any]) -> str:
    """Return `difference`, `low` and `high` of a row; fractions in percent, as `plain` tells."""
    if row["difference"] is None or row["low"] is None:
        return "–"
    factor = 1 if (row["plain"] or 0) > 1 else 100
    return f"{factor * row['difference']:+.1f} [{factor * row['low']:.1f}, {factor * row['high']:.1f}]"
