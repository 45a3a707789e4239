"""Runs on the same items, compared with one of them: plain data for reports, the command line, studies and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_evals.compare import LEVEL, RESAMPLES, Estimate, Resampled, mcnemar, paired
from vlm_evals.equal_recall import OffCurve, off_curve
from vlm_evals.errors import AnswerMismatch
from vlm_evals.metric import Derived, Metric
from vlm_evals.ratios import Formula, counts_of
from vlm_evals.records import Score
from vlm_evals.reports.verdict import Verdict, score_verdict, verdict

PLAIN, MITIGATED = "plain", "mitigated"


@dataclass(frozen=True)
class Comparison:
    """Runs of one metric on the same items, resampled together. Made by `compare`.

    Attributes:
        metric: whose figures are compared.
        runs: name -> scores in the order of the first, which is `PLAIN`.
        curve: end-of-text bias -> place in `resampled`; empty without a curve.
        resampled: the counts of the runs, in their order, and of the curve's.
        figures: figure -> how it comes from those counts.
        settings: `n` (units), `seed`, `resamples`, `level`.
    """

    metric: Metric
    runs: Mapping[str, Sequence[Score]]
    curve: Mapping[float, int]
    resampled: Resampled
    figures: Mapping[str, Formula]
    settings: Mapping[str, Any]

    @property
    def others(self) -> list[str]:
        """The names of the runs that are compared with the plain one, in order."""
        return [name for name in self.runs if name != PLAIN]

    def side(self, name: str) -> dict[str, Any]:
        """Return every figure of one run, with `intervals`."""
        found = {one: self.resampled.estimate(formula, self._place(name)) for one, formula in self.figures.items()}
        intervals = {one: [estimate.low, estimate.high] for one, estimate in found.items()}
        return self.metric.corpus(self.runs[name]) | {"intervals": intervals}

    def difference(self, name: str, base: str = PLAIN) -> dict[str, Estimate]:
        """Return figure -> one run minus another."""
        return self._differences(self.figures, name, base)

    def in_splits(self, name: str, base: str = PLAIN) -> dict[str, dict[str, Estimate]]:
        """Return split -> figure -> one run minus another; empty for a metric without splits."""
        metric = self.metric
        splits = metric.splits(self.runs[PLAIN])
        return {split: self._differences(metric.figures_within(split), name, base) for split in splits}

    def at_equal_recall(self, name: str) -> dict[str, Estimate]:
        """Return figure -> one run minus the plain model's curve at the run's own recall; empty without a curve."""
        return {one: placed.difference for one, placed in self.off_curve(name).items()}

    def off_curve(self, name: str) -> dict[str, OffCurve]:
        """Return figure -> one run beside the plain model's curve at the run's own recall; empty without a curve."""
        curve = self.metric.curve
        if curve is None or not self.curve:
            return {}
        figures = {one: self.figures[one] for one in curve.figures}
        places = list(self.curve.values())
        return off_curve(self.resampled, figures, self.figures[curve.over], method=self._place(name), curve=places)

    def verdict(self, name: str) -> Verdict:
        """Return what the comparison of one run with the plain one showed."""
        metric, found = self.metric, self.difference(name)
        if metric.higher_is_better:
            return score_verdict(found[metric.headline])
        return verdict(
            found[metric.headline],
            found[metric.recall] if metric.recall else Estimate(None),
            curve=self.at_equal_recall(name).get(metric.headline),
            accuracy=found[metric.accuracy] if metric.accuracy else None,
        )

    def beats(self, name: str, control: str) -> bool:
        """Whether one run is better than a control, by more than its interval.

        It has a higher accuracy where the metric has one. Else its headline is better, and its recall is not lower.
        """
        metric, found = self.metric, self.difference(name, control)
        if metric.accuracy is not None or metric.higher_is_better:
            return found[metric.accuracy or metric.headline].above_zero
        return found[metric.headline].below_zero and not (metric.recall and found[metric.recall].below_zero)

    def tests(self, name: str) -> dict[str, Any]:
        """Return figure -> McNemar's exact test of one run against the plain one; empty where the metric has none."""
        if self.metric.tested is None:
            return {}
        figure, _ = self.metric.tested
        return {figure: mcnemar(self._outcomes(PLAIN, figure), self._outcomes(name, figure))}

    def row(self, name: str, *, against: str | None = None) -> dict[str, Any]:
        """Return one run's figures and its difference from the plain run.

        Args:
            name: of the run.
            against: a run whose difference from this one is told too, as `method_minus_control`.
        """
        corpus = self.metric.corpus(self.runs[name])
        found = {key: value for key, value in corpus.items() if key not in ("counts", "undefined")}
        found["difference"] = _rows(self.difference(name))
        if against is not None:
            found["method_minus_control"] = _rows(self.difference(against, name))
        if self.curve:
            found["curve_difference"] = _rows(self.at_equal_recall(name))
        return found

    def points(self) -> list[dict[str, Any]]:
        """Return the points of the plain model's curve: `bias` and every figure, in order of bias."""
        return [
            {"bias": bias, **{name: self.resampled.value(formula, run) for name, formula in self.figures.items()}}
            for bias, run in sorted(self.curve.items())
        ]

    def findings(self) -> dict[str, dict[str, Any]]:
        """Return what else the metric finds: finding -> side -> plain data, of the plain and the first other run."""
        sides = {PLAIN: PLAIN, MITIGATED: self.others[0]}
        found = {side: self.metric.findings(self.runs[name]) for side, name in sides.items()}
        return {key: {side: one[key] for side, one in found.items()} for key in found[PLAIN]}

    def alerts(self) -> list[str]:
        """Return what the first lines of a report say of either side."""
        sides = {PLAIN: PLAIN, MITIGATED: self.others[0]}
        return [f"{side}: {one}" for side, name in sides.items() for one in self.metric.alerts(self.runs[name])]

    def pair(self) -> dict[str, Any]:
        """Return the comparison as a report has it: the first of the others as `mitigated`, the rest as controls.

        Returns:
            `verdict`, `n`, `seed`, `resamples`, `level`; `plain` and `mitigated` (every figure, with what it was made
            of and `intervals`); `difference` (figure -> estimate, low, high; mitigated minus plain); with splits
            `splits`; `mcnemar`; with a curve `curve` (points, and the difference at equal recall); `transition` (what
            the plain answers became), where the metric has one; `controls`, and `beats` (control -> whether the
            method is better).
        """
        method, *controls = self.others
        found: dict[str, Any] = {
            "verdict": self.verdict(method),
            **self.settings,
            "plain": self.side(PLAIN),
            "mitigated": self.side(method),
            "difference": _rows(self.difference(method)),
        }
        if self.metric.over_splits:
            found["splits"] = {split: _rows(one) for split, one in self.in_splits(method).items()}
        if self.metric.tested is not None:
            found["mcnemar"] = self.tests(method)
        if self.curve:
            found["curve"] = {"points": self.points(), "difference": _rows(self.at_equal_recall(method))}
        if moved := self.metric.transition(self.runs[PLAIN], self.runs[method]):
            found["transition"] = moved
        if controls:
            found["beats"] = {name: self.beats(method, name) for name in controls}
            found["controls"] = {name: self.row(name, against=method) for name in controls}
        return found

    def table(self) -> dict[str, Any]:
        """Return every other run beside the plain one: `plain`, with a curve its points, and a row each."""
        found: dict[str, Any] = {**self.settings, "plain": self.side(PLAIN)}
        if self.curve:
            found["curve"] = {"points": self.points()}
        return found | {"controls": {name: self.row(name) for name in self.others}}

    def _place(self, name: str) -> int:
        return list(self.runs).index(name)

    def _differences(self, figures: Mapping[str, Formula], name: str, base: str) -> dict[str, Estimate]:
        here, there = self._place(name), self._place(base)
        return {one: self.resampled.difference(formula, here, there) for one, formula in figures.items()}

    def _outcomes(self, name: str, figure: str) -> list[bool]:
        """Return whether the figure's count is there: in every answer, or in every unit where units are counted."""
        count = counts_of(self.metric.ratios[figure])[0]
        scores = self.runs[name]
        if all(count in score.counts for score in scores):
            return [bool(score.counts[count]) for score in scores]
        names = [f"{split}/{count}" for split in self.metric.splits(scores)] or [count]
        return [bool(row[one]) for row in self.metric.by_unit(scores) for one in names]


def compare(
    metric: Metric,
    base: Sequence[Score],
    others: Mapping[str, Sequence[Score]],
    *,
    curve: Mapping[float, Sequence[Score]] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Return runs compared with one of them: two runs, a run with its controls, or a table of many.

    Args:
        metric: whose scores they are.
        base: the scores of the model as it is.
        others: name -> scores of the same items, in any order.
        curve: end-of-text bias -> scores of the plain model with that bias; the base itself counts as bias 0.
        seed, resamples: of the bootstrap.

    Raises:
        AnswerMismatch: naming an item that is not in both runs.
    """
    biased = {bias: scores for bias, scores in (curve or {}).items() if bias != 0 and metric.curve is not None}
    runs = {PLAIN: base} | {name: _aligned(metric, base, scores) for name, scores in others.items()}
    points = [_aligned(metric, base, scores) for scores in biased.values()]
    units = [metric.by_unit(run) for run in (*runs.values(), *points)]
    resampled = Resampled(units, seed=seed, resamples=resamples)
    on_curve = {0.0: 0} | {bias: place for place, bias in enumerate(biased, start=len(runs))} if biased else {}
    settings: dict[str, Any] = {"n": len(units[0]), "seed": seed, "resamples": resamples, "level": LEVEL}
    if metric.counted:
        settings[metric.counted] = len(base)
    return Comparison(metric, runs, on_curve, resampled, metric.figures(metric.splits(base)), settings)


def derived_controls(metric: Metric, base: Sequence[Score], method: Sequence[Score]) -> Mapping[str, Derived]:
    """Return the controls that are made of the plain run's scores, for a method's in any order.

    Raises:
        AnswerMismatch: naming an item that is not in both runs.
    """
    return metric.derived(base, _aligned(metric, base, method))


def intervals(metric: Metric, scores: Sequence[Score], *, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return figure -> [low, high] of one run; nothing without scores."""
    if not scores:
        return {}
    found: dict[str, Any] = compare(metric, scores, {}, seed=seed, resamples=resamples).side(PLAIN)["intervals"]
    return found


def _aligned(metric: Metric, base: Sequence[Score], scores: Sequence[Score]) -> list[Score]:
    ordered: list[Score] = paired(base, scores, lambda score: score.key, metric.called)[1]
    for one, other in zip(base, ordered, strict=True):
        for name in ("question", "label"):
            here, there = one.evidence.get(name), other.evidence.get(name)
            if here is not None and there is not None and here != there:
                raise AnswerMismatch(
                    f"{metric.called(one)}: the {name} is {here!r} in the first run and {there!r} in the second; "
                    "compare runs on the same items"
                )
    return ordered


def _rows(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: estimate.as_row() for name, estimate in estimates.items()}
