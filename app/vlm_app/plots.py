"""Pictures of heads, answers, tokens and patches, drawn without pyplot and its global state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from vlm_app.view.grid import Grid
from vlm_app.view.marks import Named
from vlm_heads import TokenGrounding

_WIDTH = 9.0  # inches
_LINE = 0.32  # inches from one line of words to the next
_TEAL, _RED, _YELLOW, _PINK = "#0f766e", "#9f1239", "#ffd60a", "#ff5c8a"


def draw_head_map(scores: np.ndarray[Any, Any], path: Path, *, title: str) -> Path:
    """Draw scores as a map of layers (down) by heads (across), and return its file.

    Args:
        scores: [L, Hq], at least 0.
        path: PNG to write.
        title: above the map.
    """
    layers, heads = scores.shape
    figure = Figure(figsize=(min(2.5 + 0.32 * heads, 14), min(1.8 + 0.28 * layers, 12)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(scores, aspect="auto", cmap="viridis", vmin=0.0)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_xticks(range(0, heads, max(1, heads // 16)))
    axes.set_yticks(range(0, layers, max(1, layers // 16)))
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="VHD: ‖output with image − without‖")
    return _saved(figure, path)


def draw_answers(answers: Sequence[tuple[str, str, Sequence[Named]]], path: Path) -> Path:
    """Draw answers below one another, with the objects that are not in the picture in red, and return the file.

    Args:
        answers: (title, text, mentions) each.
        path: PNG to write.
    """
    blocks = []
    for title, text, named in answers:
        words = []
        for word in re.finditer(r"\S+", text):
            marks = [one for one in named if one.start < word.end() and word.start() < one.end]
            colour = _RED if any(one.shown is False for one in marks) else _TEAL if marks else "#1c1917"
            words.append((word[0], colour, None))
        blocks.append((title, words))
    return _draw_words(blocks, path, "objects named; red: not in the picture")


def draw_tokens(strips: Iterable[tuple[str, Sequence[TokenGrounding]]], path: Path) -> Path:
    """Draw the tokens of answers on grounds that tell their T-VHD, and return the file."""
    blocks = []
    for title, tokens in strips:
        spoken = [one for one in tokens if one.text.strip()]
        low = min((one.t_vhd for one in spoken), default=0.0)
        span = max(max((one.t_vhd for one in spoken), default=1.0) - low, 1e-9)
        blocks.append((title, [(one.text.strip(), "#1c1917", 0.45 * (one.t_vhd - low) / span) for one in spoken]))
    return _draw_words(blocks, path, "darker: leaned more on the image (T-VHD)")


def draw_patches(
    picture: Image.Image,
    grid: Grid,
    maps: Sequence[tuple[str, NDArray[np.float64]]],
    sinks: NDArray[np.int64] | None,
    path: Path,
    title: str,
) -> Path:
    """Draw a picture once for each map, with the weight of every image position over it, and return the file.

    Args:
        picture: upright.
        grid: where the positions lie.
        maps: (title, weights `[N]`) each; all on one scale.
        sinks: `[N]`, in how many layers each position is a sink; outlined where in any.
        path: PNG to write.
        title: above all of them.
    """
    width, height = picture.size
    figure = Figure(figsize=(3.6 * len(maps), 3.6 * height / width + 0.55), layout="constrained")
    figure.suptitle(re.sub(r"<[^>]+>", "", title), fontsize=9)
    top = max(float(weights.max()) for _, weights in maps)
    for axes, (name, weights) in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        axes.imshow(np.asarray(picture.convert("L")), cmap="gray", vmin=0, vmax=340)
        for position, weight in enumerate(weights.tolist()):
            left, high, wide, tall = grid.box(position)
            corner = (left * width - 0.5, high * height - 0.5)
            axes.add_patch(
                Rectangle(corner, wide * width, tall * height, color=_YELLOW, alpha=0.85 * weight / top, lw=0)
            )
            if sinks is not None and sinks[position]:
                axes.add_patch(Rectangle(corner, wide * width, tall * height, fill=False, color=_PINK, lw=1.5))
        axes.set_title(f"{name}: {weights.sum():.3f} on the image", fontsize=9)
        axes.set_axis_off()
    return _saved(figure, path)


def _draw_words(blocks: Sequence[tuple[str, Sequence[tuple[str, str, float | None]]]], path: Path, legend: str) -> Path:
    """Draw titled blocks of (word, colour, depth of its ground), wrapped at the figure's width."""
    figure = Figure(figsize=(_WIDTH, 1.0))
    renderer = FigureCanvasAgg(figure).get_renderer()
    placed: list[tuple[float, int, Any]] = []
    line = 0
    for title, words in blocks:
        placed.append((0.15, line, figure.text(0, 0, title, fontsize=9, color="#57534e", weight="bold")))
        line, left = line + 1, 0.15
        for word, colour, depth in words:
            ground = (
                None if depth is None else {"facecolor": (0.06, 0.46, 0.43, depth), "edgecolor": "#d6d3d1", "pad": 2.5}
            )
            text = figure.text(0, 0, word, fontsize=11, color=colour, bbox=ground)
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
    return _saved(figure, path)


def _saved(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120, format="png", metadata={"Software": None})
    return path
