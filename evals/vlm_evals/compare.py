"""Two runs on the same items: differences with intervals, exact tests, and a correction for many of them.

A resample draws items with replacement, the same ones for every run, and takes every figure of the resampled corpus;
intervals are percentiles over resamples. An item is a unit of a metric, such as an image: all questions about one image
are drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_evals.errors import AnswerMismatch
from vlm_evals.ratios import Counts, Formula, total

if TYPE_CHECKING:
    from vlm_evals.ratios import Array

RESAMPLES = 2000
SWAPS = 9_999
LEVEL = 0.95
SAME = 1e-12  # below it two differences are one, whatever was rounded
_BLOCK = 4_000_000  # weights held in memory at once


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval; all three are None where it is undefined.

    Attributes:
        value: of the items as they are.
        low, high: the percentile interval of the resamples.
        undefined: why there is no number.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: str | None = None

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high is not None and self.high < 0

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low is not None and self.low > 0

    def as_row(self) -> dict[str, Any]:
        """Return plain data: estimate, low, high, and `undefined` where there is a reason."""
        row: dict[str, Any] = {"estimate": self.value, "low": self.low, "high": self.high}
        return row | ({"undefined": self.undefined} if self.undefined else {})


class Resampled:
    """The summed counts of several runs on the same items, as they are and in every resample.

    Args:
        runs: per run, the counts of every item in the same order.
        seed: of the resampling.
        resamples: how many.

    Raises:
        AnswerMismatch: if the runs do not have the same number of items, or none.
    """

    def __init__(self, runs: Sequence[Sequence[Counts]], *, seed: int, resamples: int = RESAMPLES) -> None:
        if not runs or not runs[0] or len({len(run) for run in runs}) != 1:
            raise AnswerMismatch(f"runs on {', '.join(str(len(run)) for run in runs)} items cannot be compared")
        names = list(dict.fromkeys(name for run in runs for name in run[0]))
        table = np.array([[[item.get(name, 0) for name in names] for item in run] for run in runs], dtype=np.float64)
        count, items, columns = table.shape
        self._table, self._names = table, names
        self.observed = [total(run) for run in runs]
        flat = np.moveaxis(table, 0, 1).reshape(items, count * columns)
        sums = resampled_sums(flat, seed=seed, resamples=resamples).reshape(resamples, count, columns)
        self._sums = [{name: sums[:, run, column] for column, name in enumerate(names)} for run in range(count)]

    def value(self, formula: Formula, run: int) -> float | None:
        """Return a figure of one run."""
        return formula.of(self.observed[run])

    def samples(self, formula: Formula, run: int) -> Array:
        """Return a figure of one run in every resample, NaN where it is undefined."""
        return formula.of_many(self._sums[run])

    def estimate(self, formula: Formula, run: int) -> Estimate:
        """Return a figure of one run with its interval."""
        return interval(self.value(formula, run), self.samples(formula, run), formula.undefined)

    def difference(self, formula: Formula, run: int, base: int) -> Estimate:
        """Return the figure of one run minus that of another, with its interval."""
        here, there = self.value(formula, run), self.value(formula, base)
        value = None if here is None or there is None else here - there
        return interval(value, self.samples(formula, run) - self.samples(formula, base), formula.undefined)

    def swap_tests(
        self, formulas: Mapping[str, Formula], run: int, base: int, *, seed: int, swaps: int = SWAPS
    ) -> dict[str, float | None]:
        """Return figure -> the two-sided p of a paired swap test of one run against another.

        Where a method does nothing, which of an item's two results is whose is arbitrary. The test swaps them at random
        in half of the items, again and again, and counts how often the difference is at least as large as it was.

        Args:
            formulas: the figures.
            run, base: which runs.
            seed: of the swaps.
            swaps: how often; p is never below 1 / (swaps + 1).

        Returns:
            None where a figure has no difference.
        """
        here, there = self._table[run], self._table[base]
        moved = _swapped_sums(there - here, seed=seed, swaps=swaps)
        sums = [
            {name: total[:, column] for column, name in enumerate(self._names)}
            for total in (here.sum(axis=0) + moved, there.sum(axis=0) - moved)
        ]
        found: dict[str, float | None] = {}
        for name, formula in formulas.items():
            one, other = self.value(formula, run), self.value(formula, base)
            if one is None or other is None:
                found[name] = None
                continue
            chance = np.abs(formula.of_many(sums[0]) - formula.of_many(sums[1]))
            found[name] = float(1 + (chance >= abs(one - other) - SAME).sum()) / (1 + swaps)
        return found


def _swapped_sums(table: Array, *, seed: int, swaps: int) -> Array:
    """Return the column sums `[swaps, columns]` over the items that each swap takes; an item is taken half the time."""
    items = len(table)
    generator = np.random.default_rng(seed)
    block = max(_BLOCK // items, 1)
    parts = []
    for start in range(0, swaps, block):
        taken = generator.integers(0, 2, size=(min(block, swaps - start), items), dtype=np.int8)
        parts.append(taken.astype(np.float64) @ table)
    return np.concatenate(parts)


def holm(tested: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return p-values corrected for how many there are (Holm 1979); those that are None stay so and do not count.

    In order of size the smallest of m is multiplied by m, the next by m - 1 and so on. None falls below one before it,
    and none is above 1.
    """
    order = sorted((p, name) for name, p in tested.items() if p is not None)
    found: dict[str, float | None] = dict.fromkeys(tested)
    largest = 0.0
    for place, (p, name) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - place)))
        found[name] = largest
    return found


def resampled_sums(table: Array, *, seed: int, resamples: int) -> Array:
    """Return the column sums of resampled rows.

    Args:
        table: [items, columns].
        seed: of the resampling.
        resamples: how many.

    Returns:
        [resamples, columns].
    """
    items = len(table)
    generator = np.random.default_rng(seed)
    block = max(_BLOCK // items, 1)
    sums = np.empty((resamples, table.shape[1]))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, items, size=(rows, items)) + np.arange(rows)[:, None] * items
        weights = np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items)
        sums[start : start + rows] = weights @ table
    return sums


def interval(value: float | None, samples: Array, undefined: str, level: float = LEVEL) -> Estimate:
    """Return a value with the percentile interval of its resamples; resamples without a value are left out."""
    defined = samples[~np.isnan(samples)]
    if value is None or not defined.size:
        return Estimate(None, undefined=undefined)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def mcnemar(plain: Sequence[bool], mitigated: Sequence[bool]) -> dict[str, Any]:
    """Return McNemar's exact test on paired yes-or-no outcomes.

    Returns:
        `only_plain` and `only_mitigated` (items where one run alone has the outcome) and `p`, two-sided; 1 where no
        item differs.
    """
    from scipy.stats import binomtest  # slow to import, and asked for once a report

    pairs = list(zip(plain, mitigated, strict=True))
    only_plain = sum(one and not other for one, other in pairs)
    only_mitigated = sum(other and not one for one, other in pairs)
    differing = only_plain + only_mitigated
    p = float(binomtest(only_plain, differing, 0.5).pvalue) if differing else 1.0
    return {"only_plain": only_plain, "only_mitigated": only_mitigated, "p": p}


def paired(
    plain: Sequence[Any], other: Sequence[Any], key: Callable[[Any], str], called: Callable[[Any], str] | None = None
) -> tuple[list[Any], list[Any]]:
    """Return two runs' scores with the second in the order of the first.

    Args:
        plain, other: scores.
        key: what a score is about; equal keys are paired in order of appearance.
        called: the same in words, for a message; by default the key.

    Raises:
        AnswerMismatch: naming an item that only one of the runs has.
    """
    said = called or key
    waiting: dict[str, list[Any]] = {}
    for score in reversed(other):
        waiting.setdefault(key(score), []).append(score)
    ordered = []
    for score in plain:
        if not (left := waiting.get(key(score))):
            raise AnswerMismatch(f"{said(score)} was answered in the first run alone; compare runs on the same items")
        ordered.append(left.pop())
    if stray := next((left for left in waiting.values() if left), None):
        raise AnswerMismatch(f"{said(stray[-1])} was answered in the second run alone; compare runs on the same items")
    return list(plain), ordered
