"""What a league keeps of every row for Holm's correction and for the goal: shares, p-values and its own controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_evals.compare import holm
from vlm_evals.equal_recall import OffCurve
from vlm_evals.reports.pairs import Comparison

from vlm_app.studies.chosen import CAPTIONS
from vlm_app.studies.league.entries import Entry

FIGURES = {"chair_s": "CHAIR_S", "chair_i_distinct": "CHAIR_I distinct"}  # what is tested, and the goal asks for
LEVEL = 0.05  # a row stands where its corrected p is below it


def evidence(compared: Comparison, entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Return row -> what is kept of it beside its figures.

    Args:
        compared: the rows, with the plain model's curve.
        entries: the rows.

    Returns:
        Of each row `relative` (figure -> the difference at equal recall as a share of the plain model's, with its
        interval), `p` (figure -> two-sided p of that difference, uncorrected) and `over` (control -> figure -> the row
        minus its control, `at_equal_recall`, and whether the row is `better`).
    """
    placed = {entry.name: compared.off_curve(entry.name) for entry in entries}
    found: dict[str, dict[str, Any]] = {}
    for name, figures in placed.items():
        own = [other.name for other in entries if name in other.of]
        found[name] = {
            "relative": {figure: figures[figure].relative.as_row() for figure in FIGURES},
            "p": {figure: figures[figure].p for figure in FIGURES},
            "over": {control: _over(compared, placed, name, control) for control in own},
        }
    return found


def _over(
    compared: Comparison, placed: Mapping[str, Mapping[str, OffCurve]], name: str, control: str
) -> dict[str, Any]:
    """Return a row minus its control, on the same resamples of scenes, and whether the row is better.

    Each is taken at its own recall, as its difference from the plain model's curve. Where one of them left the curve,
    both are taken as they are; then the row must not find fewer objects either. It is better where every figure's
    interval lies below zero.
    """
    apart = {figure: placed[name][figure].minus(placed[control][figure]) for figure in FIGURES}
    at_equal_recall = all(one.value is not None for one in apart.values())
    found_fewer = False
    if not at_equal_recall:
        direct = compared.difference(name, control)
        apart, found_fewer = {figure: direct[figure] for figure in FIGURES}, direct["recall"].below_zero
    better = all(one.below_zero for one in apart.values()) and not found_fewer
    rows = {figure: one.as_row() for figure, one in apart.items()}
    return {**rows, "at_equal_recall": at_equal_recall, "better": better}


def corrected(measured: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return figure -> row -> its p after Holm's correction over all rows of the split that lie on the curve."""
    rows = measured[CAPTIONS]["controls"]
    return {figure: holm({name: row["p"][figure] for name, row in rows.items()}) for figure in FIGURES}


def stands(p: float | None) -> bool:
    """Whether a corrected p is small enough."""
    return p is not None and p < LEVEL
