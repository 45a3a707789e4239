"""Pictures of heads, answers, tokens and patches, drawn without pyplot and its global state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlm_app.view import words
from vlm_app.view.facts import Column, Patches, Strip

_WIDTH = 9.0  # inches
_LINE = 0.32  # inches from one line of words to the next
_INK, _TEAL, _RED, _YELLOW, _PINK = "#1c1917", "#0f766e", "#9f1239", "#ffd60a", "#ff5c8a"


def draw_head_map(
    scores: np.ndarray[Any, Any], path: Path, *, title: str, unit: str = "VHD: ‖output with image − without‖"
) -> Path:
    """Draw scores as a map of layers (down) by heads (across), and return its file.

    Args:
        scores: [L, Hq]; where some are below 0, the colours have their middle there.
        path: PNG or SVG to write.
        title: above the map.
        unit: beside the scale.
    """
    layers, heads = scores.shape
    figure = Figure(figsize=(min(2.5 + 0.32 * heads, 14), min(1.8 + 0.28 * layers, 12)), layout="constrained")
    axes = figure.subplots()
    if (top := float(np.abs(scores).max())) and scores.min() < 0:
        image = axes.imshow(scores, aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top)
    else:
        image = axes.imshow(scores, aspect="auto", cmap="viridis", vmin=0.0)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_xticks(range(0, heads, max(1, heads // 16)))
    axes.set_yticks(range(0, layers, max(1, layers // 16)))
    axes.set_title(title, fontsize=10, parse_math=False)
    figure.colorbar(image, ax=axes, label=unit)
    return _saved(figure, path, title)


def draw_agreement(tables: Mapping[str, np.ndarray[Any, Any]], names: Sequence[str], path: Path, *, title: str) -> Path:
    """Draw rank correlations of scorers, one square table after the other, and return the file.

    Args:
        tables: title -> `[n, n]`, -1..1; not a number where there is none.
        names: of the n scorers.
        path: PNG or SVG to write.
        title: above all.
    """
    side = 1.6 + 0.62 * len(names)
    figure = Figure(figsize=(side * len(tables) + 1.0, side + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (name, values) in zip(panels, tables.items(), strict=True):
        image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_title(name, fontsize=9, parse_math=False)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        for (row, column), value in np.ndenumerate(values):
            dark = not np.isnan(value) and abs(value) > 0.6
            text = "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else _INK)
    figure.colorbar(image, ax=panels, label="rank correlation", shrink=0.8)
    return _saved(figure, path, title)


def draw_answers(columns: Sequence[Column], path: Path) -> Path:
    """Draw answers below one another, with what is not in the picture in red and bold, and return the file."""
    blocks = []
    for column in columns:
        pieces = []
        for word in re.finditer(r"\S+", column.side.text):
            marks = [one for one in column.named if one.start < word.end() and word.start() < one.end]
            colour = _RED if any(one.shown is False for one in marks) else _TEAL if marks else _INK
            pieces.append((word[0], colour, None))
        blocks.append((column.title, pieces))
    return _draw_words(blocks, path, "objects named; red and bold: not in the picture")


def draw_tokens(strips: Iterable[Strip], path: Path) -> Path:
    """Draw the tokens of answers on grounds that tell their T-VHD, and return the file."""
    blocks = [
        (strip.side, [(one.text.strip(), _INK, 0.45 * strip.level(place)) for place, one in strip.spoken])
        for strip in strips
    ]
    return _draw_words(blocks, path, "darker: leaned more on the image (T-VHD)")


def draw_patches(found: Patches, path: Path) -> Path:
    """Draw a picture once for each map, with the weight of every image position over it, and return the file.

    All maps have one scale. A position that is a sink in any layer is outlined.
    """
    width, height = found.picture.size
    figure = Figure(figsize=(3.6 * len(found.maps), 3.6 * height / width + 0.55), layout="constrained")
    title = words.looked_at(found.looked_at)
    figure.suptitle(title, fontsize=9, parse_math=False)
    for axes, (name, weights) in zip(figure.subplots(1, len(found.maps), squeeze=False)[0], found.maps, strict=True):
        axes.imshow(np.asarray(found.picture.convert("L")), cmap="gray", vmin=0, vmax=340)
        for position, weight in enumerate(weights.tolist()):
            left, high, wide, tall = found.grid.box(position)
            corner, size = (left * width - 0.5, high * height - 0.5), (wide * width, tall * height)
            axes.add_patch(Rectangle(corner, *size, color=_YELLOW, alpha=0.85 * weight / found.top, lw=0))
            if found.sinks is not None and found.sinks[position]:
                axes.add_patch(Rectangle(corner, *size, fill=False, color=_PINK, lw=1.5))
        axes.set_title(f"{name.lower()}: {weights.sum():.3f} on the image", fontsize=9)
        axes.set_axis_off()
    return _saved(figure, path, title)


def _draw_words(blocks: Sequence[tuple[str, Sequence[tuple[str, str, float | None]]]], path: Path, legend: str) -> Path:
    """Draw titled blocks of (word, colour, depth of its ground), wrapped at the figure's width."""
    figure = Figure(figsize=(_WIDTH, 1.0))
    renderer = FigureCanvasAgg(figure).get_renderer()
    placed: list[tuple[float, int, Any]] = []
    line = 0
    for title, pieces in blocks:
        placed.append(
            (0.15, line, figure.text(0, 0, title, fontsize=9, color="#57534e", weight="bold", parse_math=False))
        )
        line, left = line + 1, 0.15
        for word, colour, depth in pieces:
            ground = (
                None if depth is None else {"facecolor": (0.06, 0.46, 0.43, depth), "edgecolor": "#d6d3d1", "pad": 2.5}
            )
            weight = "bold" if colour == _RED else "normal"  # no colour says anything alone
            text = figure.text(0, 0, word, fontsize=11, color=colour, weight=weight, bbox=ground, parse_math=False)
            wide = text.get_window_extent(renderer).width / figure.dpi
            if left + wide > _WIDTH - 0.15:
                line, left = line + 1, 0.15
            placed.append((left, line, text))
            left += wide + (0.08 if depth is None else 0.14)
        line += 2
    placed.append((0.15, line - 1, figure.text(0, 0, legend, fontsize=8, color="#57534e")))
    tall = (line + 0.5) * _LINE
    figure.set_size_inches(_WIDTH, tall)
    for left, row, text in placed:
        text.set_position((left / _WIDTH, 1 - (row + 0.8) * _LINE / tall))
    return _saved(figure, path, legend)


def _saved(figure: Figure, path: Path, title: str) -> Path:
    """Write a figure as PNG or SVG, by the file's name; it carries its title, but not when it was made."""
    unsaid = ("Date", "Creator") if path.suffix == ".svg" else ("Software",)
    figure.savefig(path, dpi=120, metadata={"Title": title} | dict.fromkeys(unsaid))
    return path
