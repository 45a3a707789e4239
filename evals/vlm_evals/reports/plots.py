"""A report's plots, drawn without pyplot and its global state."""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlm_evals.metric import Metric
from vlm_evals.records import write_whole
from vlm_evals.reports.frontier_plot import draw_frontier
from vlm_evals.reports.style import CONTROL, GREY, INK, LIGHT, METHOD, axis_label, dressed, marked
from vlm_evals.reports.tables import metrics_of

_MARKS = "^v<>sPXphd*"  # every control has its own


def draw_plots(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write the plots a report has data for, and return their files.

    invented.png: the objects invented most often. differences.png: paired differences with their intervals.
    curve.png: the plain model's trade-off curve with the method and the controls.
    """
    drawn: list[Path] = []
    if report["kind"] == "frontier":
        metric = metrics_of(report)[0]
        return [] if metric.plane is None else _write(folder / "frontier.png", draw_frontier(metric, report))
    if _invented(report):
        drawn += _save(folder / "invented.png", _draw_invented, report)
    if report["kind"] == "paired":
        drawn += _save(folder / "differences.png", _draw_differences, report)
    if "curve" in report:
        drawn += _save(folder / "curve.png", _draw_curve, report)
    return drawn


def _save(path: Path, draw: Callable[[Axes, Mapping[str, Any]], None], report: Mapping[str, Any]) -> list[Path]:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    draw(figure.subplots(), report)
    return _write(path, figure)


def _write(path: Path, figure: Figure) -> list[Path]:
    """Write a figure as PNG, and as SVG beside it; neither says when it was made."""
    written = []
    for kind, unsaid in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        drawn = io.BytesIO()
        with rc_context({"svg.hashsalt": "vlm-heads", "svg.fonttype": "none"}):
            figure.savefig(drawn, dpi=150, format=kind, metadata=unsaid)
        write_whole(path.with_suffix(f".{kind}"), drawn.getvalue())
        written.append(path.with_suffix(f".{kind}"))
    return written


def _invented(report: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return side -> object -> captions that invent it, without sides that invent nothing."""
    stated = report.get("most_invented", {})
    sides = stated if isinstance(stated, Mapping) else {"": stated}
    counted = {side: {one["object"]: one["captions"] for one in objects} for side, objects in sides.items()}
    return counted if any(counted.values()) else {}


def _draw_invented(axes: Axes, report: Mapping[str, Any]) -> None:
    sides = _invented(report)
    names = list(dict.fromkeys(name for objects in sides.values() for name in objects))[:12]
    height = 0.8 / len(sides)
    for index, (side, objects) in enumerate(sides.items()):
        places = [place + index * height for place in range(len(names))]
        colour = METHOD if side == "mitigated" else LIGHT
        captions = [objects.get(name, 0) for name in names]
        axes.barh(places, captions, height, label=side, color=colour, edgecolor=INK, linewidth=0.6)
    axes.set_yticks([place + (len(sides) - 1) * height / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel("captions that invent it (fewer is better ←)")
    dressed(axes, "Objects invented most often")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(sides) > 1:
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.99), fontsize=8)


def _draw_differences(axes: Axes, report: Mapping[str, Any]) -> None:
    difference = report["difference"]
    first, *more = metrics_of(report)
    rows = list(_fractions(first, difference))
    for metric in more:
        rows += [
            (f"{metric.title} {label}", estimate) for label, estimate in _fractions(metric, difference[metric.name])
        ]
    rows = [(label, estimate) for label, estimate in rows if estimate["estimate"] is not None]
    for place, (_, estimate) in enumerate(rows):
        low, value, high = (100 * estimate[key] for key in ("low", "estimate", "high"))
        axes.plot([low, high], [place, place], color=METHOD)
        axes.plot([value], [place], "o", color=METHOD)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("mitigated minus plain, points of percent; ↓ fewer, ↑ more is better")
    dressed(axes, f"What changed, with {report['level']:.0%} intervals")


def _fractions(metric: Metric, difference: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in dict.fromkeys([*metric.labels, *metric.ratios]):
        if name in difference and name not in metric.numbers:
            yield marked(metric, name), difference[name]


def _draw_curve(axes: Axes, report: Mapping[str, Any]) -> None:
    metric = metrics_of(report)[0]
    assert metric.curve is not None, "a report has a curve where its metric has one"
    over, shown = metric.curve.over, metric.curve.figures[0]
    points = [point for point in report["curve"]["points"] if point[over] is not None]
    axes.plot(*_places(points, over, shown), "o-", color=GREY, mfc="white", label="plain, end-of-text biases")
    axes.plot(*_places([report["mitigated"]], over, shown), "D", color=METHOD, label="mitigated")
    for place, (name, control) in enumerate(report.get("controls", {}).items()):
        mark = _MARKS[place % len(_MARKS)]
        axes.plot(*_places([control], over, shown), mark, color=CONTROL, mfc="white", label=f"control: {name}")
    axes.set_xlabel(axis_label(metric, over, across=True))
    axes.set_ylabel(axis_label(metric, shown, across=False))
    dressed(axes, "Against a plain model that only says less, or more")
    axes.legend(frameon=False, fontsize=8)


def _places(points: list[Any], over: str, shown: str) -> tuple[list[float], list[float]]:
    defined = [point for point in points if point[over] is not None and point[shown] is not None]
    return [100 * point[over] for point in defined], [100 * point[shown] for point in defined]
