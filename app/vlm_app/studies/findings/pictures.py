"""Pictures of what was found, drawn from findings.json alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from vlm_evals.records import write_whole

Found = Mapping[str, Any]
Numbers = NDArray[np.float64]

_INK, _TEAL, _PALE, _AMBER, _GREY = "#1c1917", "#0f766e", "#d6d3d1", "#d18f00", "#78716c"


def draw_findings(found: Found, folder: Path) -> dict[str, Path]:
    """Draw a model's pictures into a folder and return their files: `attention`, `positions` and `heads`."""
    name = found["about"]["model"]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for what, draw in _PICTURES.items():
        figure = Figure(figsize=(10.0, 4.0), layout="constrained")
        draw(figure, found)
        content = io.BytesIO()
        figure.savefig(content, dpi=110, format="png", metadata={"Software": None, "Title": f"{name}: {what}"})
        drawn[what] = folder / f"findings-{name}-{what}.png"
        write_whole(drawn[what], content.getvalue())
    return drawn


def _draw_attention(figure: Figure, found: Found) -> None:
    """Draw where text rows attend, and how far the first token stands above the median one."""
    rows = found["sinks"]
    layers = [row["layer"] for row in rows]
    weights, ratios = figure.subplots(1, 2)
    first, image = ([row["mass"][name] for row in rows] for name in ("first", "image"))
    rest = [1 - one - other for one, other in zip(first, image, strict=True)]
    weights.stackplot(
        layers, first, image, rest, colors=(_INK, _TEAL, _PALE), labels=("first token", "image", "other text")
    )
    weights.set(title="Where text after the image attends", ylabel="share of attention", ylim=(0, 1))
    weights.margins(x=0)
    lines = {
        "first_in_channel": ("first token, in its largest channel", _INK, "o-"),
        "first": ("first token, norm", _GREY, "s-"),
        "other_text": ("largest other text token, norm", _AMBER, "^--"),
        "image": ("largest image position, norm", _TEAL, "v--"),
    }
    for name, (label, colour, style) in lines.items():
        values = [row["over_median"][name] for row in rows]
        ratios.plot(layers, values, style, color=colour, label=label, markersize=3, linewidth=1)
    ratios.axhline(found["criterion"]["factor"], color=_PALE, zorder=0, label="factor of criterion=median")
    ratios.set(title="Times the median token", yscale="log")
    ratios.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    for axes in (weights, ratios):
        axes.set_xlabel("layer")


def _draw_positions(figure: Figure, found: Found) -> None:
    """Draw how the image's weight is spread over its positions: by layer, and in the middle of all layers."""
    shares = np.array([row["mass"]["places"] for row in found["sinks"]])
    shares = shares / shares.sum(axis=1, keepdims=True) * shares.shape[1]
    side = round(shares.shape[1] ** 0.5)
    square = side * side == shares.shape[1]
    by_layer, *grid = figure.subplots(1, 2, width_ratios=(2.4, 1)) if square else [figure.subplots()]
    _map(figure, by_layer, shares)
    by_layer.set(title="Attention on image positions, times an even share", xlabel="position", ylabel="layer")
    numbers = [row["layer"] for row in found["sinks"]]
    some = range(0, len(numbers), max(1, len(numbers) // 10))
    by_layer.set_yticks(list(some), [numbers[place] for place in some])
    if square:
        _map(figure, grid[0], shares.mean(axis=0).reshape(side, side), aspect="equal")
        grid[0].set(title="Mean over layers", xticks=[], yticks=[])


def _draw_heads(figure: Figure, found: Found) -> None:
    """Draw VHD of every head, over its layer's median, and the largest of each layer."""
    scores = np.array(found["scores"]["vhd"])
    middle = np.array([row["median"] for row in found["heads"]])[:, None]
    ratios = np.divide(scores, middle, out=np.zeros_like(scores), where=middle > 0)
    each, largest = figure.subplots(1, 2)
    _map(figure, each, ratios)
    each.set(title="VHD of every head, times its layer's median", xlabel="head", ylabel="layer")
    most = np.maximum(ratios.max(axis=1), 1.0)  # a layer without any is drawn as one whose heads are all the same
    largest.hlines(range(len(most)), 1, most, color=_TEAL)
    largest.plot(most, range(len(most)), "o", color=_TEAL, markersize=4)
    largest.set(title="The largest of each layer", xlabel="times the median", ylabel="layer", xscale="log")
    largest.set_xticks(_doublings(1, float(most.max())))
    largest.xaxis.set_major_formatter("{x:g}")
    largest.minorticks_off()
    largest.invert_yaxis()


def _map(figure: Figure, axes: Axes, ratios: Numbers, aspect: Literal["auto", "equal"] = "auto") -> None:
    """Draw ratios in colours of a logarithmic scale; what is less than an eighth is as dark as an eighth."""
    top = max(2.0, float(ratios.max()))
    scale = LogNorm(vmin=1 / 8, vmax=top, clip=True)
    drawn = axes.imshow(np.maximum(ratios, 1 / 8), norm=scale, aspect=aspect, cmap="magma", interpolation="nearest")
    bar = figure.colorbar(drawn, ax=axes, format="{x:g}", shrink=1.0 if aspect == "auto" else 0.8)
    bar.set_ticks(_doublings(1 / 8, top))
    bar.minorticks_off()


def _doublings(first: float, last: float) -> list[float]:
    """Return a number, twice that and so on, up to the last."""
    return [first * 2**power for power in range(int(np.log2(last / first)) + 1)]


_PICTURES: Mapping[str, Callable[[Figure, Found], None]] = {
    "attention": _draw_attention,
    "positions": _draw_positions,
    "heads": _draw_heads,
}
