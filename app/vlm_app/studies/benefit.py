"""Did a reinforced profile help? Judged by differences from the plain model, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_evals.registry import find_metric

from vlm_app.studies.chosen import CAPTIONS, QUESTIONS

FEWEST = 20  # pictures of either kind; an interval resampled from fewer is too narrow to show anything


def judged(chair: Mapping[str, Any], pope: Mapping[str, Any], kept: bool) -> tuple[bool, str]:
    """Return whether a benefit was shown, and why or why not.

    Recall and POPE's accuracy must not be significantly below plain, and either captions invent less at equal recall
    or POPE's accuracy is significantly higher. Significant is an interval of 95 % that leaves out zero, resampled
    from `FEWEST` pictures or more.

    Args:
        chair: comparison of captions with the plain model and its curve.
        pope: comparison of answers.
        kept: whether the setting held recall and accuracy on the searched part.
    """
    pictures = min(chair["n"], pope["n"])
    if pictures < FEWEST:
        return False, f"{pictures} pictures are too few to show anything: at least {FEWEST} are needed"
    if not kept:
        return False, "no setting held both recall and POPE's accuracy on the searched part"
    lost = [
        metric.labels[metric.must_hold]
        for metric, compared in ((find_metric(CAPTIONS), chair), (find_metric(QUESTIONS), pope))
        if below(compared, metric.must_hold)
    ]
    if lost:
        return False, f"{' and '.join(lost)} significantly below plain on the reporting part"
    if chair["verdict"] == "fewer hallucinations at equal recall":
        return True, "captions invent less at equal recall"
    low = pope["difference"]["accuracy"]["low"]
    if low is not None and low > 0:
        return True, "POPE's accuracy is higher"
    return False, "neither fewer inventions at equal recall nor a higher accuracy of POPE was shown"


def measured_table(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a figure: plain, reinforced, and the difference with its interval."""
    rows = []
    for named in (CAPTIONS, QUESTIONS):
        one, metric = found[named], find_metric(named)
        title = "" if named == CAPTIONS else f"{metric.title} "
        for name in metric.summary:
            label = f"{title}{metric.labels[name]}"
            rows.append(_line(label, one["plain"][name], one["mitigated"][name], one["difference"][name]))
        if "curve" in one:
            off = one["curve"]["difference"][metric.headline]
            rows.append(_line(f"{metric.labels[metric.headline]} at equal recall", None, None, off))
    return rows


def _line(label: str, plain: float | None, reinforced: float | None, off: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "metric": label,
        "plain": plain,
        "reinforced": reinforced,
        "difference": off["estimate"],
        "low": off["low"],
        "high": off["high"],
    }


def searched_row(setting: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a setting's differences from plain, and whether it may be chosen.

    The objective is the difference of CHAIR_S less that of POPE's accuracy: lower is better.

    Args:
        setting: its name among the rows of the comparisons.
        found: a table of captions and one of answers, each with the setting as a row.
    """
    own = {metric: one["controls"][setting] for metric, one in found.items()}
    off = {
        "chair_s": own[CAPTIONS]["difference"]["chair_s"]["estimate"],
        "recall": own[CAPTIONS]["difference"]["recall"]["estimate"],
        "pope_accuracy": own[QUESTIONS]["difference"]["accuracy"]["estimate"],
    }
    kept = not any(below(row, find_metric(metric).must_hold) for metric, row in own.items())
    objective = (off["chair_s"] or 0.0) - (off["pope_accuracy"] or 0.0)
    return {"setting": setting, **off, "kept": kept, "objective": objective}


def below(compared: Mapping[str, Any], name: str) -> bool:
    """Return whether a difference is significantly below zero: its whole interval is."""
    high = compared["difference"][name]["high"]
    return high is not None and high < 0
