"""How every plot of a report looks: few colours that differ in grey too, a title, and which way is better."""

from __future__ import annotations

from matplotlib.axes import Axes

from vlm_evals.metric import Metric

INK, GREY, PALE, LIGHT, METHOD, CONTROL = "#111111", "#6b6b6b", "#b5b5b5", "#c9c9c9", "#0b4f8a", "#c77700"
FEWER, MORE = "fewer is better", "more is better"


def dressed(axes: Axes, title: str = "") -> None:
    """Give axes a title and a grid behind the marks, and take away what no reader needs."""
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    axes.grid(color="#ececec", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def better(metric: Metric, name: str) -> str:
    """Return which way a figure is better; empty where neither is."""
    if name == metric.headline:
        return MORE if metric.higher_is_better else FEWER
    planes = [one for one in (metric.curve, metric.plane) if one is not None]
    if name in (metric.recall, metric.accuracy, *(one.over for one in planes)):
        return MORE
    shown = (metric.plane.shown if metric.plane else "", *(metric.curve.figures if metric.curve else ()))
    return FEWER if name in shown else ""


def axis_label(metric: Metric, name: str, *, across: bool) -> str:
    """Return what an axis says: a figure, its unit, and an arrow to where it is better."""
    unit = metric.label(name) if name in metric.numbers else f"{metric.label(name)}, %"
    arrows = {FEWER: "←" if across else "↓", MORE: "→" if across else "↑"}
    way = better(metric, name)
    return f"{unit} ({way} {arrows[way]})" if way else unit


def marked(metric: Metric, name: str) -> str:
    """Return a figure's name with an arrow: down where fewer is better, up where more is."""
    arrow = {FEWER: " ↓", MORE: " ↑"}.get(better(metric, name), "")
    return f"{metric.label(name)}{arrow}"
