"""A picture of what is lost by layer, drawn from branches.json alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from vlm_evals.records import write_whole

Found = Mapping[str, Any]

_LINES = {
    "faithful": ("faithful mentions", "#0f766e", "-", "o"),
    "invented": ("invented mentions", "#b45309", "--", "s"),
    "other": ("other words", "#78716c", ":", "^"),
}


def draw_branches(found: Found, folder: Path) -> Path:
    """Draw a model's picture into a folder and return its file."""
    name, layers = found["about"]["model"], found["about"]["layers"]
    figure = Figure(figsize=(12.0, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for kind, (label, colour, style, marker) in _LINES.items():
        if found["counts"][kind]:
            _line(left, found, kind, colour=colour, style=style, marker=marker, label=label)
    left.set_title("What a word loses (nats)", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    if found["starts"][0]["auc"] is not None:
        _line(middle, found, "auc", colour="#1d4ed8", style="-", marker="o", label="AUC")
    middle.axhline(0.5, color="#78716c", linewidth=0.8)
    middle.set_title("How well the loss tells faithful from invented (AUC)", fontsize=10)
    starts = [row["start"] for row in found["starts"]]
    right.plot(starts, [row["changed"] for row in found["starts"]], color="#78716c", marker="^", markersize=3)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.set_ylim(bottom=0.0)
    right.set_title("Other words that the contrast changes", fontsize=10)
    for axes in (left, middle, right):
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel(f"the image is hidden from this layer on (of {layers})")
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png", metadata={"Software": None, "Title": f"{name}: losses by layer"})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"branches-{name}.png"
    write_whole(path, content.getvalue())
    return path


def _line(axes: Axes, found: Found, name: str, *, colour: str, style: str, marker: str, label: str) -> None:
    """Draw estimates by layer with their intervals as a band."""
    rows = [(row["start"], row[name]) for row in found["starts"] if row[name] is not None]
    starts = np.array([start for start, _ in rows])
    estimate, low, high = (np.array([value[key] for _, value in rows]) for key in ("estimate", "low", "high"))
    axes.plot(starts, estimate, style, color=colour, marker=marker, markersize=3, label=label)
    axes.fill_between(starts, low, high, color=colour, alpha=0.15, linewidth=0)
