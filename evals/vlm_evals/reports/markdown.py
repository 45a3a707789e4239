"""A report as Markdown that one would paste into a paper or a tracker."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_evals.reports.examples import SAID, marked_text
from vlm_evals.reports.table import Table
from vlm_evals.reports.tables import headline, metrics_of, tables
from vlm_evals.reports.words import not_measured, words

_HASH = re.compile(r"[0-9a-f]{40,}")


def markdown(report: Mapping[str, Any], plots: Sequence[str] = ()) -> str:
    """Return a report as Markdown: what was shown, tables, plots, how to read them, and last how it was measured."""
    lines = [f"# {headline(report)}", ""]
    for alert in report.get("alerts", ()):
        lines += [f"**{_cell(alert)}**", ""]
    lines.append(f"n: {report['n']}" + (f", {len(report['failures'])} not answered" if report["failures"] else ""))
    for table in tables(report):
        lines += ["", f"## {table.title}", "", *grid(table)]
    for plot in plots:
        lines += ["", f"![{plot.removesuffix('.png')}]({plot})"]
    lines += _examples(report)
    metrics = metrics_of(report)
    parts = {
        "How to read it": _reading(report),
        "Undefined": [f"{name}: {reason}" for name, reason in _undefined(report).items()],
        "Not answered": [f"{_cell(sample)}: {_cell(reason)}" for sample, reason in report["failures"].items()],
        "Not measured": list(map(_cell, not_measured(metrics, report))),
        "Words": [f"**{_cell(word)}**: {meaning}" for word, meaning in words(metrics, report)],
        "How it was measured": _settings(report["settings"]),
    }
    for title, said in parts.items():
        if said:
            lines += ["", f"## {title}", "", *(one if one.startswith("  - ") else f"- {one}" for one in said)]
    return "\n".join(lines) + "\n"


def _examples(report: Mapping[str, Any]) -> list[str]:
    """Return captions side by side, with what they invent in bold; nothing where there are none."""
    rows = [
        (one["image"], one["kind"], *(marked_text(one[side]) for side in ("plain", "mitigated")))
        for one in report.get("examples", ())
    ]
    table = Table("Examples", ("image", "the mitigated caption", "plain", "mitigated"), rows)
    return ["", f"## {table.title}", "", SAID, "", *grid(table)] if rows else []


def _settings(settings: Mapping[str, Any]) -> list[str]:
    """Return who answered what, one fact a line; hashes last."""
    facts, hashes = [], []
    for name, value in settings.items():
        if name == "notes" or value in (None, "", (), []):
            continue
        if name == "protocol" and isinstance(value, Mapping):
            hashes.append(f"protocol: {value.get('name', '')}, hash `{value.get('hash', 'none')}`")
            hashes += [f"  - {key}: {_brief(entry)}" for key, entry in value.items() if key not in ("name", "hash")]
        elif isinstance(value, Mapping):
            facts.append(f"{name}: " + ", ".join(f"{key} {_cell(entry)}" for key, entry in value.items()))
        else:
            shown = _cell(", ".join(map(str, value)) if isinstance(value, list | tuple) else value)
            (hashes if _HASH.fullmatch(shown) else facts).append(f"{name}: {shown}")
    return facts + hashes


def _reading(report: Mapping[str, Any]) -> list[str]:
    """Return what a reader needs to know of the numbers, one fact a line."""
    facts = list(report["settings"].get("notes") or ())
    if report["kind"] == "frontier":
        facts += _facts_of_many(report)
    if report["kind"] == "paired":
        units = " and ".join(dict.fromkeys(metric.units for metric in metrics_of(report)))
        facts.append(
            f"differences are mitigated minus plain, {report['level']:.0%} bootstrap intervals "
            f"({report['resamples']} resamples of {units}, seed {report['seed']}); rates in percent"
        )
        tested = dict(metric.tested for metric in metrics_of(report) if metric.tested)
        for name, test in report.get("mcnemar", {}).items():
            facts.append(
                f"McNemar's exact test, {tested[name]}: {test['only_plain']} in the plain run alone, "
                f"{test['only_mitigated']} in the mitigated run alone, p = {test['p']:.3g}"
            )
    return facts


def _facts_of_many(report: Mapping[str, Any]) -> list[str]:
    """Return how many runs were compared and tested, one fact a line."""
    metric, tests = metrics_of(report)[0], report["tests"]
    units, figures = metric.units, ", ".join(metric.label(name) for name in tests["figures"])
    facts = [
        f"differences are a run minus {report['against']}, {report['level']:.0%} bootstrap intervals "
        f"({report['resamples']} resamples of {units}, seed {report['seed']}); rates in percent",
        f"p is of a two-sided paired swap test ({tests['swaps']} swaps of {units} between the two runs), corrected by "
        f"Holm's method for {tests['comparisons']} comparisons, each figure by itself: {figures}",
        "a verdict goes by the run's own intervals, which are not corrected: read it beside p",
    ]
    if metric.plane is not None:
        facts.append(
            f"a run dominates another where its {metric.label(metric.plane.over)} is at least as high and its "
            f"{metric.label(metric.plane.shown)} no higher, and one of the two is better; points of the lines below "
            "compete too; beside it stands the share of resamples in which none dominates"
        )
    return facts


def _brief(value: object) -> str:
    """Return a protocol's entry on one line: long lists by their length, hashes by their beginning."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_brief(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list | tuple):
        return f"{len(value)} of them" if len(value) > 6 else ", ".join(map(_brief, value)) or "none"
    text = _cell(value)
    return f"{text[:12]}…" if _HASH.fullmatch(text) else text


def _undefined(report: Mapping[str, Any]) -> dict[str, str]:
    first, *more = metrics_of(report)
    sides = [report[side] for side in ("plain", "mitigated")] if report["kind"] == "paired" else [report]
    reasons: dict[str, str] = {}
    for side in sides:
        parts = [(first, one) for one in (side, *side.get("splits", {}).values())]
        for metric, part in [*parts, *((metric, side[metric.name]) for metric in more)]:
            reasons |= {metric.label(name): reason for name, reason in part.get("undefined", {}).items()}
    for name, estimate in report.get("curve", {}).get("difference", {}).items():
        if "undefined" in estimate:
            reasons[f"{first.label(name)} at equal recall"] = estimate["undefined"]
    return reasons


def grid(table: Table) -> list[str]:
    """Return a table as lines of Markdown."""
    lines = ["| " + " | ".join(table.header) + " |", "|" + "---|" * len(table.header)]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
