"""The report of many runs as tables, and as its first line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_evals.metric import Metric
from vlm_evals.reports.table import Table

STRENGTHS = {"end-of-text": "{:+g} on the end of text", "first-word": "{:+g} on the first word", "cut": "{:g} words"}
LINE_TITLES = {
    "end-of-text": "The plain model, saying less or more: a bias on its end of text",
    "first-word": "The plain model with a bias on its first word",
    "cut": "The same answers, cut",
}


def frontier_headline(metric: Metric, report: Mapping[str, Any]) -> str:
    """Return the first line: who is not dominated, and who is better than its controls."""
    methods = [row for row in report["rows"] if row["role"] == "method"]
    compared = f"{len(report['rows'])} {'run' if len(report['rows']) == 1 else 'runs'} against {report['against']}"
    said = [f"{metric.title} of {report['n']} {metric.units}, {compared}"]
    if metric.plane is not None:
        figures = f"{metric.label(metric.plane.over)} and {metric.label(metric.plane.shown)}"
        names = [report["against"], *(row["name"] for row in report["rows"])]
        free = [name for name in names if name in report["undominated"]]
        said.append(f"not dominated in {figures}: {', '.join(free) or 'none'}")
    judged = [row for row in methods if row.get("beats")]
    if judged:
        won = [row["name"] for row in judged if all(row["beats"].values())]
        said.append(f"better than every control: {', '.join(won) or 'none'}")
    return "; ".join(said)


def frontier_tables(metric: Metric, report: Mapping[str, Any]) -> list[Table]:
    """Return the tables: figures, differences from the base, what is left at equal recall and length, the lines."""
    found = [_figures(metric, report), _differences(metric, report["rows"], report["against"], report["tests"])]
    found += _equal(metric, report)
    found += [
        _differences(metric, part["rows"], report["against"], part["tests"], within=part["budget"])
        for part in report.get("budgets", ())
    ]
    return found + [_line(metric, role, points) for role, points in report["lines"].items() if points]


def _shown(metric: Metric) -> tuple[str, ...]:
    """Return the figures of a table: the metric's few, and those of its plane."""
    plane = (metric.plane.over, metric.plane.shown) if metric.plane else ()
    return tuple(dict.fromkeys([*(metric.summary or metric.ratios), *plane]))


def _figures(metric: Metric, report: Mapping[str, Any]) -> Table:
    names = _shown(metric)
    base = {"name": report["against"], "role": "base", **report["plain"]}
    rows = [
        (row["name"], _role(row), *(metric.show(name, row[name]) for name in names), _free(metric, row))
        for row in (base, *report["rows"])
    ]
    last = ("not dominated",) if metric.plane else ()
    header = ("run", "role", *map(metric.label, names), *last)
    return Table(metric.title, header, [row[: len(header)] for row in rows])


def _role(row: Mapping[str, Any]) -> str:
    return f"control of {row['of']}" if row.get("of") else str(row["role"])


def _free(metric: Metric, row: Mapping[str, Any]) -> str:
    """Return whether no run dominates it, with the share of the resamples where that is so."""
    return f"yes, in {100 * row['share']:.0f} %" if row["undominated"] and metric.plane else "no"


def _differences(
    metric: Metric,
    rows: Sequence[Mapping[str, Any]],
    base: str,
    tests: Mapping[str, Any],
    within: str | None = None,
) -> Table:
    names = tests["figures"]
    header = ["run"]
    for name in names:
        header += [f"{metric.label(name)} [95 %]", "p (Holm)"]
    cells = [
        (
            row["name"],
            *(
                cell
                for name in names
                for cell in (metric.show_estimate(name, row["difference"][name]), _p(row["holm"][name]))
            ),
            row["verdict"],
        )
        for row in rows
    ]
    title = f"Minus {base}" + (f", within {within}" if within else "")
    return Table(f"{title}; p corrected for {tests['comparisons']} comparisons", (*header, "verdict"), cells)


def _p(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2g}" if value >= 0.001 else f"{value:.0e}"


def _equal(metric: Metric, report: Mapping[str, Any]) -> list[Table]:
    """Return what differs from the plain model's line, at a run's own recall and at its own length."""
    if report["line"] is None or metric.plane is None:
        return []
    names = report["tests"]["figures"]
    sides = {"equal_recall": metric.label(metric.plane.over)} | (
        {"equal_length": "length"} if metric.plane.length else {}
    )
    rows = [
        (row["name"], said, *(_at_equal(metric, name, row[side]) for name in names))
        for row in report["rows"]
        for side, said in sides.items()
    ]
    header = ("run", "at equal", *(f"{metric.label(name)} [95 %]" for name in names))
    line = {"end-of-text": "with other end-of-text biases", "cut": "cut earlier"}[report["line"]]
    return [Table(f"Minus {report['against']} {line}", header, rows)] if rows else []


def _at_equal(metric: Metric, name: str, estimates: Mapping[str, Any]) -> str:
    """Return a difference; nothing for the figure that is held equal."""
    if name not in estimates:
        return ""
    off = estimates[name]["estimate"] is None
    return "off the line" if off else metric.show_estimate(name, estimates[name])


def _line(metric: Metric, role: str, points: Sequence[Mapping[str, Any]]) -> Table:
    names = _shown(metric)
    rows = [
        (STRENGTHS[role].format(point["strength"]), *(metric.show(name, point[name]) for name in names))
        for point in points
    ]
    return Table(LINE_TITLES[role], ("point", *map(metric.label, names)), rows)
