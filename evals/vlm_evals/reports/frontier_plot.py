"""The picture of many runs: what is invented against what is found, and against length.

Roles are told by marks and not by colour alone: it is legible in grey. Every run has a number, and the key names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlm_evals.metric import Metric
from vlm_evals.reports.style import CONTROL, GREY, INK, METHOD, PALE, axis_label, dressed

LINE_STYLES = {  # role -> dashes, mark, words
    "end-of-text": ("-", "o", "plain, other end-of-text biases"),
    "cut": ("-", "o", "the same answers, cut earlier"),
    "first-word": ("--", "s", "plain, other first-word biases"),
}
_MARKS = {"base": ("o", INK, "base"), "method": ("D", METHOD, "method"), "control": ("^", CONTROL, "control")}
_PANEL, _KEY = 4.6, 2.9  # inches
_MARKS_TALL, _LINE = 2.0, 0.16  # inches: of the marks' key, of a run's line in it


class _Run(NamedTuple):
    number: int
    row: Mapping[str, Any]

    @property
    def role(self) -> str:
        return str(self.row["role"])


def draw_frontier(metric: Metric, report: Mapping[str, Any]) -> Figure:
    """Return the picture.

    Args:
        metric: with a plane.
        report: of many runs.
    """
    plane = metric.plane
    assert plane is not None, "a metric without a plane has no picture of it"
    across = [plane.over, *([plane.length] if plane.length else [])]
    base = {"name": report["against"], "role": "base", **report["plain"]}
    runs = [_Run(number, row) for number, row in enumerate((base, *report["rows"]))]
    tall = max(_PANEL, _MARKS_TALL + _LINE * len(runs))
    figure = Figure(figsize=(_PANEL * len(across) + _KEY, tall), layout="constrained")
    *panels, key = figure.subplots(1, len(across) + 1, width_ratios=[_PANEL] * len(across) + [_KEY])
    for axes, name in zip(panels, across, strict=True):
        _draw_panel(axes, metric, report, runs, name, plane.shown)
    panels[0].set_title(_title(metric, report), fontsize=10, loc="left", parse_math=False)
    _draw_step(panels[0], report, runs, plane.over, plane.shown)
    _draw_key(key, report, runs, tall)
    return figure


def _title(metric: Metric, report: Mapping[str, Any]) -> str:
    runs = f"{len(report['rows'])} {'run' if len(report['rows']) == 1 else 'runs'}"
    return f"{metric.title} of {report['n']} {metric.units}, {runs} against {report['against']}"


def _draw_panel(
    axes: Axes, metric: Metric, report: Mapping[str, Any], runs: Sequence[_Run], across: str, up: str
) -> None:
    for role, (dashes, mark, _) in LINE_STYLES.items():
        if points := report["lines"].get(role):
            # the base lies on its own line, between biases below and above zero, and at its end where it is cut
            own = {"strength": 0.0 if role != "cut" else float("inf"), **report["plain"]}
            line = sorted([*points, own], key=lambda point: float(point["strength"]))
            x, y = (_shown(metric, name, [point[name] for point in line]) for name in (across, up))
            axes.plot(x, y, dashes, marker=mark, color=GREY, lw=1.1, ms=3.5, mfc="white", zorder=1)
    for run in runs:
        _draw_run(axes, metric, run, across, up)
    _draw_numbers(axes, metric, runs, across, up)
    axes.set_xlabel(axis_label(metric, across, across=True))
    axes.set_ylabel(axis_label(metric, up, across=False))
    axes.margins(0.09)
    dressed(axes)


def _draw_run(axes: Axes, metric: Metric, run: _Run, across: str, up: str) -> None:
    row = run.row
    if row[across] is None or row[up] is None:
        return
    (x, y), (mark, colour, _) = (_shown(metric, name, [row[name]])[0] for name in (across, up)), _MARKS[run.role]
    for name, vertical in ((across, False), (up, True)):
        low, high = _shown(metric, name, row["intervals"][name])
        ends = ([x, x], [low, high]) if vertical else ([low, high], [y, y])
        axes.plot(*ends, color=PALE, lw=1.2, zorder=2, solid_capstyle="butt")
    free = row["undominated"]
    axes.plot([x], [y], mark, color=colour, mfc=colour if free else "white", ms=7, mew=1.4, zorder=3)


def _draw_numbers(axes: Axes, metric: Metric, runs: Sequence[_Run], across: str, up: str) -> None:
    """Write the numbers beside the marks; those of marks that lie on one another stand in one place."""
    groups: list[tuple[float, float, list[_Run]]] = []
    wide, tall = (ends[1] - ends[0] for ends in (axes.get_xlim(), axes.get_ylim()))
    for run in runs:
        if run.row[across] is None or run.row[up] is None:
            continue
        x, y = (_shown(metric, name, [run.row[name]])[0] for name in (across, up))
        near = (one for one in groups if abs(one[0] - x) < 0.02 * wide and abs(one[1] - y) < 0.03 * tall)
        found = next(near, None)
        if found is None:
            groups.append((x, y, [run]))
        else:
            found[2].append(run)
    for x, y, own in groups:
        text = ", ".join(str(run.number) for run in own)
        weight = "bold" if any(run.row["undominated"] for run in own) else "normal"
        axes.annotate(
            text, (x, y), (6, 5), textcoords="offset points", fontsize=8.5, weight=weight, color=INK, zorder=4
        )


def _draw_step(axes: Axes, report: Mapping[str, Any], runs: Sequence[_Run], across: str, up: str) -> None:
    """Draw the edge that no run lies beyond, through the runs that none dominates."""
    points = [run.row for run in runs if run.row["undominated"]]
    points += [point for line in report["lines"].values() for point in line if point["undominated"]]
    corners = sorted((100 * point[across], 100 * point[up]) for point in points)
    if len(corners) > 1:
        # whoever is to find more than one run has to invent as much as the next one to the right
        axes.step(*zip(*corners, strict=True), where="pre", color=INK, lw=0.9, ls=":", zorder=1)


def _draw_key(axes: Axes, report: Mapping[str, Any], runs: Sequence[_Run], tall: float) -> None:
    axes.set_axis_off()
    marks = [
        Line2D([], [], ls="", marker=mark, color=colour, mfc="white", mew=1.4, label=words)
        for role, (mark, colour, words) in _MARKS.items()
        if any(run.role == role for run in runs)
    ]
    marks.append(Line2D([], [], ls="", marker="o", color=INK, label="filled: no run dominates it"))
    marks += [
        Line2D([], [], ls=dashes, marker=mark, color=GREY, mfc="white", ms=3.5, lw=1.1, label=words)
        for role, (dashes, mark, words) in LINE_STYLES.items()
        if report["lines"].get(role)
    ]
    marks.append(Line2D([], [], ls=":", color=INK, lw=0.9, label="edge of what is reached"))
    marks.append(Line2D([], [], color=PALE, lw=1.2, label=f"{report['level']:.0%} intervals"))
    legend = axes.legend(handles=marks, loc="upper left", frameon=False, fontsize=8, bbox_to_anchor=(-0.08, 1.02))
    legend.set_in_layout(False)
    names = [f"{run.number}  {_short(str(run.row['name']))}" for run in runs]
    below = 0.97 - 0.22 * len(marks) / tall
    axes.text(
        -0.03, below, "\n".join(names), transform=axes.transAxes, va="top", fontsize=8,
        linespacing=1.35, parse_math=False, in_layout=False,
    )  # fmt: skip


def _short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _shown(metric: Metric, name: str, values: Sequence[float | None]) -> list[float]:
    scale = 1 if name in metric.numbers else 100
    return [float("nan") if value is None else scale * value for value in values]
