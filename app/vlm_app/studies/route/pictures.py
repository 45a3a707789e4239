"""A picture of what a gain on the image's route does, drawn from route.json alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from vlm_evals.records import write_whole

Found = Mapping[str, Any]

_LINES = {"faithful": ("faithful mentions", "#0f766e", "o"), "invented": ("invented mentions", "#b45309", "s")}
_CLASSES = {
    "said": "the word said", "present": "other objects\nof the picture", "again": "objects\nnamed before",
    "absent": "objects\nnot there", "end": "the end", "other": "other words",
}  # fmt: skip


def draw_route(found: Found, folder: Path) -> Path:
    """Draw a model's picture into a folder and return its file."""
    name = found["about"]["model"]
    figure = Figure(figsize=(12.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    _by_band(left, found)
    _by_class(right, found)
    content = io.BytesIO()
    title = f"{name}: the image's route gained"
    figure.savefig(content, dpi=110, format="png", metadata={"Software": None, "Title": title})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"route-{name}.png"
    write_whole(path, content.getvalue())
    return path


def _by_band(axes: Axes, found: Found) -> None:
    bands = found["about"]["bands"]
    for place, (kind, (label, colour, marker)) in enumerate(_LINES.items()):
        rows = [found["changes"][f"band {number}"][kind] for number in range(len(bands))]
        if all(row is not None for row in rows):
            _points(axes, np.arange(len(rows)) + 0.15 * (2 * place - 1), rows, 1.0, colour, marker, label)
    axes.axhline(0.0, color="#78716c", linewidth=0.8)
    axes.set_xticks(range(len(bands)), [str(a) if a == b else f"{a}–{b}" for a, b in bands])
    axes.set_xlabel("layers that are gained, alone")
    axes.set_title(f"What a mention gains (nats), image's route times {found['about']['gain']:g}", fontsize=10)
    axes.legend(frameon=False, fontsize=9)


def _by_class(axes: Axes, found: Found) -> None:
    for place, (kind, (label, colour, marker)) in enumerate(_LINES.items()):
        if kind in found["shares"]:
            rows = [found["shares"][kind][name]["change"] for name in _CLASSES]
            _points(axes, np.arange(len(rows)) + 0.15 * (2 * place - 1), rows, 100.0, colour, marker, label)
    axes.axhline(0.0, color="#78716c", linewidth=0.8)
    axes.set_xticks(range(len(_CLASSES)), list(_CLASSES.values()), fontsize=8)
    axes.set_title("Where probability goes at mentions (points), all layers gained", fontsize=10)


def _points(axes: Axes, at: Any, rows: Any, scale: float, colour: str, marker: str, label: str) -> None:
    estimate, low, high = (scale * np.array([row[key] for row in rows]) for key in ("estimate", "low", "high"))
    axes.errorbar(
        at, estimate, yerr=[estimate - low, high - estimate], fmt=marker, color=colour, markersize=4, capsize=2,
        linewidth=1, label=label,
    )  # fmt: skip
