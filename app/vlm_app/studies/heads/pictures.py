"""Pictures of what heads do, drawn from heads.json alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from vlm_evals.records import write_whole

from vlm_app.studies.heads.asked import MENTIONS
from vlm_app.studies.heads.routes import ROUTES

Found = Mapping[str, Any]
Numbers = NDArray[np.float64]

MOST = 0.98  # of heads have their own colour; the few beyond are as dark as the last of these
_TEAL, _AMBER, _GREY = "#0f766e", "#d18f00", "#78716c"


def draw_heads(found: Found, folder: Path) -> dict[str, Path]:
    """Draw a model's pictures into a folder and return their files: `maps` and `routes`."""
    name = found["about"]["model"]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for what, draw in _PICTURES.items():
        figure = Figure(layout="constrained")
        draw(figure, found)
        content = io.BytesIO()
        figure.savefig(content, dpi=110, format="png", metadata={"Software": None, "Title": f"{name}: {what}"})
        drawn[what] = folder / f"heads-{name}-{what}.png"
        write_whole(drawn[what], content.getvalue())
    return drawn


def _draw_maps(figure: Figure, found: Found) -> None:
    """Draw VHD of every head, what each gain changes, and what the image tells through it."""
    figure.set_size_inches(13.0, 2.6 + 0.11 * found["about"]["layers"])
    maps = found["maps"]
    changed = {
        "switched off:\nfaithful mentions": maps["ablation"]["faithful"],
        "doubled:\nfaithful mentions": maps["doubling"]["faithful"],
        "doubled:\ninvented mentions": maps["doubling"]["invented"],
        "doubled: yes,\npresent objects": maps["doubling"]["present"],
        "doubled: yes,\nabsent objects": maps["doubling"]["absent"],
        "told by the image:\nfaithful mentions": maps["image"]["faithful"],
    }
    known = {title: np.array(values) for title, values in changed.items() if values is not None}
    first, *others = figure.subplots(1, 1 + len(known), sharey=True)
    _map(figure, first, _over_median(np.array(maps["vhd"])), "VHD, times the\nlayer's median", signed=False)
    first.set_ylabel("layer")
    for axes, (title, values) in zip(others, known.items(), strict=True):
        _map(figure, axes, values, title, signed=True)


def _draw_routes(figure: Figure, found: Found) -> None:
    """Draw what all heads of a layer tell for a mention directly, by route."""
    figure.set_size_inches(13.0, 3.6)
    panels = figure.subplots(1, len(MENTIONS), sharey=True)
    for axes, kind in zip(panels, MENTIONS, strict=True):
        for route, (label, colour, shift) in _BARS.items():
            told = found["maps"][route][kind]
            if told is not None:
                sums = np.array(told).sum(axis=1)
                axes.bar(np.arange(len(sums)) + shift, sums, 0.4, color=colour, label=label)
        axes.axhline(0, color=_GREY, linewidth=0.8)
        axes.set_title(f"{kind} first mentions ({found['counts'][kind]})", fontsize=10)
        axes.set_xlabel("layer")
    panels[0].set_ylabel("told for the object's word")
    bars = {label: bar for axes in panels for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(bars.values(), bars.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _over_median(scores: Numbers) -> Numbers:
    """Return scores over their layer's lower median; 1 where that is 0."""
    middle = np.sort(scores, axis=1)[:, (scores.shape[1] - 1) // 2][:, None]
    return np.divide(scores, middle, out=np.ones_like(scores), where=middle > 0)


def _map(figure: Figure, axes: Axes, values: Numbers, title: str, *, signed: bool) -> None:
    """Draw a number for every head; signed ones in two colours round 0."""
    largest = max(float(np.quantile(np.abs(values), MOST)), 1e-6)
    lowest, colours = (-largest, "RdBu") if signed else (0.0, "magma")
    drawn = axes.imshow(values, vmin=lowest, vmax=largest, aspect="auto", cmap=colours, interpolation="nearest")
    ends: Literal["both", "max"] = "both" if signed else "max"
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.9, pad=0.02, extend=ends)
    bar.ax.tick_params(labelsize=7)
    bar.set_ticks([lowest, largest], labels=[f"{limit:.2g}" for limit in (lowest, largest)])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("head")


_BARS = dict(
    zip(
        ROUTES,
        (("through the image's keys", _TEAL, -0.2), ("through all other keys", _AMBER, 0.2)),
        strict=True,
    )
)
_PICTURES: Mapping[str, Callable[[Figure, Found], None]] = {"maps": _draw_maps, "routes": _draw_routes}
