"""Many runs on the same items: each against one of them, at equal recall and length, and which of them none dominates.

method        what is to be judged
control       what a method is to be better than
end-of-text   the plain model with a bias on its end of text: saying less or more
first-word    the plain model with a bias on the word that answers begin with
cut           the plain model's own answers, cut after so many words: saying less, and no model asked

A run dominates another where it finds at least as much and invents no more, and one of the two is strictly better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from vlm_evals.compare import RESAMPLES, SWAPS, Estimate, holm
from vlm_evals.equal_recall import at_equal_recall
from vlm_evals.metric import Metric
from vlm_evals.records import Score
from vlm_evals.reports.pairs import PLAIN, Comparison, compare
from vlm_evals.reports.verdict import Verdict, score_verdict, verdict

Role = Literal["method", "control", "end-of-text", "first-word", "cut"]
LINES: tuple[Role, ...] = get_args(Role)[2:]
Resamples = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Entry:
    """One run among many.

    Attributes:
        name: as it is called in the report.
        scores: of the same items as every other run's, in any order.
        role: what it is there for.
        of: the method that a control belongs to; empty where it is everybody's.
        strength: the bias of a point on a line, or the words it was cut after.
        said: who answered, in words.
    """

    name: str
    scores: Sequence[Score]
    role: Role = "method"
    of: str = ""
    strength: float = 0.0
    said: str = ""


class Field:
    """Runs compared with one of them, and with what the plain model gives for saying less.

    Args:
        metric: whose figures are compared.
        base: the run that the others are compared with.
        entries: the others.
        seed, resamples: of the bootstrap.
        swaps: of the tests.

    Raises:
        AnswerMismatch: naming an item that is not in both of two runs.
    """

    def __init__(
        self,
        metric: Metric,
        base: Entry,
        entries: Sequence[Entry],
        *,
        seed: int,
        resamples: int = RESAMPLES,
        swaps: int = SWAPS,
    ) -> None:
        self.metric, self.base, self.entries, self.swaps, self._seed = metric, base, list(entries), swaps, seed
        named = {str(place): entry.scores for place, entry in enumerate(self.entries, start=1)}
        self.comparison: Comparison = compare(metric, base.scores, named, seed=seed, resamples=resamples)

    def places(self, role: Role) -> list[int]:
        """Return the places of the runs of a role, in order of their strength."""
        found = [place for place, entry in enumerate(self.entries, start=1) if entry.role == role]
        return sorted(found, key=lambda place: self.entries[place - 1].strength)

    @property
    def compared(self) -> list[int]:
        """The places of methods and controls, in their order."""
        return [place for place, entry in enumerate(self.entries, start=1) if entry.role not in LINES]

    @property
    def line(self) -> Role | None:
        """Which line of the plain model runs are compared along: the first that has a point beside the base."""
        return next((role for role in ("end-of-text", "cut") if self.places(role)), None)

    def at_equal(self, over: str | None, place: int) -> dict[str, Estimate]:
        """Return figure -> a run minus the plain model's line, at the run's own value of a figure; empty without one.

        Args:
            over: recall or length; None for nothing.
            place: of the run.
        """
        plane = self.metric.plane
        if over is None or plane is None or self.line is None:
            return {}
        figures = self.comparison.figures
        wanted = {name: figures[name] for name in self.tested if name != over}
        return at_equal_recall(
            self.comparison.resampled,
            wanted,
            figures[over],
            method=place,
            curve=[0, *self.places(self.line)],
            called="length" if over == plane.length else self.metric.label(over),
        )

    @property
    def tested(self) -> list[str]:
        """The figures that are tested: accuracy if there is one, the headline, what is invented, what is found."""
        metric, plane = self.metric, self.metric.plane
        more = (plane.shown, plane.over) if plane else (metric.must_hold,)
        first = [metric.accuracy] if metric.accuracy else []
        return list(dict.fromkeys([*first, metric.headline, *more]))

    def tests(self) -> dict[str, dict[int, float | None]]:
        """Return figure -> place -> p of the paired swap test against the base, uncorrected."""
        figures = {name: self.comparison.figures[name] for name in self.tested}
        resampled = self.comparison.resampled
        found = {
            place: resampled.swap_tests(figures, place, 0, seed=self._seed, swaps=self.swaps) for place in self.compared
        }
        return {name: {place: one[name] for place, one in found.items()} for name in figures}

    def undominated(self) -> dict[int, float]:
        """Return place -> share of the resamples in which no other run dominates it; of runs that none dominates now.

        The base has the place 0; points of lines compete too. Nothing comes back where a metric has no plane.
        """
        plane = self.metric.plane
        if plane is None:
            return {}
        places = range(len(self.entries) + 1)
        gain, cost = (self.comparison.figures[name] for name in (plane.over, plane.shown))
        resampled = self.comparison.resampled
        now = [(resampled.value(gain, place), resampled.value(cost, place)) for place in places]
        here = np.array([[[np.nan if one is None else one for one in pair] for pair in now]])
        often = np.stack(
            [[resampled.samples(gain, place), resampled.samples(cost, place)] for place in places], axis=0
        ).transpose(2, 0, 1)
        free, share = _undominated(here)[0], _undominated(often).mean(axis=0)
        return {place: float(share[place]) for place in places if free[place]}

    def verdict(self, place: int) -> Verdict:
        """Return what the comparison of one run with the base showed, along the plain model's line if there is one."""
        metric, found = self.metric, self.comparison.difference(str(place))
        if metric.higher_is_better:
            return score_verdict(found[metric.headline])
        return verdict(
            found[metric.headline],
            found[metric.recall] if metric.recall else Estimate(None),
            curve=self.at_equal(metric.plane.over, place).get(metric.headline) if metric.plane else None,
            accuracy=found[metric.accuracy] if metric.accuracy else None,
        )

    def controls_of(self, place: int) -> list[int]:
        """Return the places of the controls that a method is to be better than."""
        name = self.entries[place - 1].name
        return [one for one in self.compared if self._is_control(one, name)]

    def _is_control(self, place: int, method: str) -> bool:
        entry = self.entries[place - 1]
        return entry.role == "control" and entry.of in ("", method)


def _undominated(points: Resamples) -> Any:
    """Return `[S, runs]`: whether no other run dominates it.

    Args:
        points: `[S, runs, 2]`, what should be high and what should be low; a run without a value is dominated.
    """
    gain, cost = points[:, :, 0], points[:, :, 1]
    defined = ~np.isnan(gain) & ~np.isnan(cost)
    dominated = ~defined
    for other in range(points.shape[1]):
        more, less = gain[:, other, None], cost[:, other, None]
        with np.errstate(invalid="ignore"):
            dominated |= (more >= gain) & (less <= cost) & ((more > gain) | (less < cost))
    return ~dominated


def frontier_report(field: Field, *, settings: Mapping[str, Any], failures: Mapping[str, str]) -> dict[str, Any]:
    """Return the report of many runs.

    Args:
        field: the runs.
        settings: as in `report.single_report`.
        failures: sample id -> why it counts in no run.

    Returns:
        `kind` "frontier", `metric`, `settings`, `failures`, `n`, `seed`, `resamples`, `level`; `against` (the base's
        name) and `plain` (its figures); `rows`, a method or control each: `name`, `role`, `of`, `said`, every figure
        with `intervals`, `difference`, `equal_recall`, `equal_length`, `p` and `holm` (figure -> p), `verdict`,
        `beats` (control -> whether the method is better), `undominated` and `share`; `lines` (role -> points);
        `line`, the one that runs are compared along; `undominated` (names), `tests`.
    """
    comparison, metric = field.comparison, field.metric
    raw = field.tests()
    corrected = {name: holm({str(place): p for place, p in one.items()}) for name, one in raw.items()}
    free = field.undominated()
    names = [field.base.name, *(entry.name for entry in field.entries)]
    rows = []
    for place in field.compared:
        row = _row(field, place) | {"undominated": place in free, "share": free.get(place)}
        row["p"] = {name: one[place] for name, one in raw.items()}
        row["holm"] = {name: one[str(place)] for name, one in corrected.items()}
        rows.append(row)
    return {
        "kind": "frontier",
        "metric": metric.name,
        "settings": dict(settings),
        "failures": dict(failures),
        **comparison.settings,
        "against": field.base.name,
        "plain": comparison.side(PLAIN) | {"undominated": 0 in free, "share": free.get(0)},
        "rows": rows,
        "lines": {role: [_point(field, place, free) for place in field.places(role)] for role in LINES},
        "line": field.line,
        "undominated": [names[place] for place in sorted(free)],
        "tests": {"figures": field.tested, "comparisons": len(rows), "swaps": field.swaps, "correction": "Holm"},
    }


def _row(field: Field, place: int) -> dict[str, Any]:
    entry, comparison, plane = field.entries[place - 1], field.comparison, field.metric.plane
    found: dict[str, Any] = {"name": entry.name, "role": entry.role, "of": entry.of, "said": entry.said}
    found |= comparison.side(str(place))
    found["difference"] = _plain_data(comparison.difference(str(place)))
    found["equal_recall"] = _plain_data(field.at_equal(plane.over if plane else None, place))
    found["equal_length"] = _plain_data(field.at_equal(plane.length if plane else None, place))
    found["verdict"] = field.verdict(place)
    if entry.role == "method":
        found["beats"] = {
            field.entries[one - 1].name: comparison.beats(str(place), str(one)) for one in field.controls_of(place)
        }
    return found


def _point(field: Field, place: int, free: Mapping[int, float]) -> dict[str, Any]:
    entry = field.entries[place - 1]
    figures = {name: field.comparison.resampled.value(one, place) for name, one in field.comparison.figures.items()}
    return {"name": entry.name, "strength": entry.strength, **figures, "undominated": place in free}


def _plain_data(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: estimate.as_row() for name, estimate in estimates.items()}
