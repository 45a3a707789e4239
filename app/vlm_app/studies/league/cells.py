"""Cells and lines of the league's pages, and what they say of a league and of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]

SPLITS = {
    "validation": "the sweep",
    "held-out": "the same world as in training",
    "shifted": "half of the objects out of place",
    "scrambled": "all objects drawn at random",
}


def line(cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def folded(title: str, text: str) -> str:
    """Return a part of a page that opens on a click."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def called(row: Found) -> str:
    """Return what a row is called."""
    label: str = row["label"] or row["method"]
    return label


def percent(value: float | None) -> str:
    """Return a share in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval(estimate: Found) -> str:
    """Return a difference in points with its interval."""
    if estimate["estimate"] is None:
        return "off the curve"
    return f"{100 * estimate['estimate']:+.1f} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def where(facts: Found) -> str:
    """Return when a league was played, on what and with what code."""
    return f"on {facts['date']} with `{facts['model']}` (weights {facts['weights']}) at commit {facts['commit']}"


def measured_on(leagues: Sequence[Found]) -> str:
    """Return when and with what several leagues were played."""
    return f"Measured {'; '.join(where(found['about']) for found in leagues)}; greedy decoding."


def title(split: str, scenes: int | None = None) -> str:
    """Return what a split is, with how many scenes of it where that is given."""
    count = "" if scenes is None else f", {scenes} scenes"
    return f"{split.capitalize()}{count} ({SPLITS[split]})"
