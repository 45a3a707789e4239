"""The words of a report, each explained once, and what the report does not say because nobody measured it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlm_evals.metric import Metric
from vlm_evals.reports.pairs import MITIGATED, PLAIN

_INTERVAL = "percentiles over resamples that draw whole {units} with replacement, the same ones for every run"
_EQUAL = (
    "the difference from the plain model's line at the run's own {over}; a method that only says less, or more, lies "
    "on the line"
)
_CONTROL = "what a method has to be better than: it costs as much, or says as much, and knows nothing"
_ALONE = "a plain run beside it: nothing shows whether a method helps (`eval --paired`, or `compare`)"


def words(metrics: Iterable[Metric], report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (word, meaning) for every word of a report that needs one."""
    found: list[tuple[str, str]] = []
    for metric in metrics:
        found += [(metric.label(name), meaning) for name, meaning in metric.meanings.items()]
    first = next(iter(metrics))
    found.append(("[95 %]", _INTERVAL.format(units=first.units)))
    kind = report["kind"]
    if kind == "paired":
        found.append((PLAIN, "the model as it is"))
        found.append((MITIGATED, "the same model with what stands under `interventions`"))
    if "curve" in report or report.get("line"):
        over = first.plane.over if first.plane else "recall"
        found.append(("at equal recall", _EQUAL.format(over=first.label(over))))
    if report.get("line") and first.plane and first.plane.length:
        found.append(("at equal length", _EQUAL.format(over="length")))
        found.append(
            ("off the line", "the run finds or says more, or less, than any point of the line: nothing to read")
        )
    if report.get("controls") or any(row["role"] == "control" for row in report.get("rows", ())):
        found.append(("control", _CONTROL))
    if kind == "frontier":
        found.append(("p (Holm)", "the chance of as large a difference where a method does nothing, for all runs"))
        if first.plane:
            found.append(
                ("not dominated", "no other run finds as much and invents less, or finds more and invents no more")
            )
    if report.get("harm"):
        found.append(("perplexity", "how surprising the plain model finds an answer; 1 is no surprise at all"))
    return list(dict.fromkeys(found))


def not_measured(metrics: Iterable[Metric], report: Mapping[str, Any]) -> list[str]:
    """Return what a reader might look for and will not find, with how to measure it."""
    listed = list(metrics)
    first, kind = listed[0], report["kind"]
    found = []
    if kind not in ("paired", "frontier"):
        found.append(_ALONE)
    if kind == "paired":
        if first.curve is not None and "curve" not in report:
            found.append("what saying less would have given: the plain model's end-of-text curve (`--curve`)")
        if not report.get("controls"):
            found.append("whether the method beats its controls (`--controls`)")
        if not report.get("harm"):
            found.append("general harm: what the method does to neutral answers (`eval --paired` measures it)")
    if kind == "frontier":
        found += _not_measured_of_many(first, report)
    for metric in listed:
        part = report if metric is first else report.get(metric.name, {})
        if metric.relabelling and not part.get("labels"):
            found.append(metric.relabelling)
    decoding = (report["settings"].get("protocol") or {}).get("decoding") or {}
    if decoding.get("do_sample"):
        found.append("greedy decoding, which alone is often better than any method with sampling")
    found.append("other models, prompts and pictures than those above")
    return found


def _not_measured_of_many(metric: Metric, report: Mapping[str, Any]) -> list[str]:
    found = []
    without = [row["name"] for row in report["rows"] if row["role"] == "method" and not row.get("beats")]
    if without:
        found.append(f"controls of {', '.join(without)} (`eval --controls`, and give the evaluation's folder)")
    if metric.plane and metric.plane.length:
        if report["line"] != "end-of-text":
            found.append("the plain model's end-of-text curve: its answers, cut earlier, stand for it (`eval --curve`)")
        if not report["lines"]["first-word"]:
            found.append("a bias on the first word alone (`eval --controls`)")
        if not report.get("budgets"):
            found.append("the same at a fixed budget (`compare --budget 64 --budget 128`)")
    return found
