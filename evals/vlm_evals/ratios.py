"""A metric's figures as data: each is a ratio of two counts that are summed first, or made of such ratios.

The same declaration gives the figure of a corpus, of a bootstrap resample and of a thousand resamples at once. A ratio
of nothing to nothing is undefined, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # a corpus needs no array, only its resamples do
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Ratio:
    """One count by another.

    Attributes:
        numerator, denominator: names of counts.
        undefined: why there is no value where the denominator is zero.
    """

    numerator: str
    denominator: str
    undefined: str

    def of(self, totals: Counts) -> float | None:
        """Return the value of summed counts; None where it is undefined."""
        below = totals[self.denominator]
        return totals[self.numerator] / below if below else None

    def of_many(self, totals: Mapping[str, Array]) -> Array:
        """Return the value of many sums at once; NaN where it is undefined."""
        import numpy as np

        below = totals[self.denominator]
        value = np.full(below.shape, np.nan)
        np.divide(totals[self.numerator], below, out=value, where=below > 0)
        return value

    def within(self, split: str) -> Ratio:
        """Return the same over the counts of one split."""
        return Ratio(f"{split}/{self.numerator}", f"{split}/{self.denominator}", self.undefined)


@dataclass(frozen=True)
class HarmonicMean:
    """The harmonic mean of two ratios, F1 of precision and recall; 0 where both are 0."""

    first: Ratio
    second: Ratio
    undefined: str

    def of(self, totals: Counts) -> float | None:
        """Return the value of summed counts; None where either ratio is undefined."""
        first, second = self.first.of(totals), self.second.of(totals)
        if first is None or second is None:
            return None
        return 2 * first * second / (first + second) if first + second else 0.0

    def of_many(self, totals: Mapping[str, Array]) -> Array:
        """Return the value of many sums at once; NaN where either ratio is undefined."""
        import numpy as np

        first, second = self.first.of_many(totals), self.second.of_many(totals)
        value = first + second  # NaN or 0 stays where nothing is divided
        np.divide(2 * first * second, first + second, out=value, where=first + second > 0)
        return value

    def within(self, split: str) -> HarmonicMean:
        """Return the same over the counts of one split."""
        return HarmonicMean(self.first.within(split), self.second.within(split), self.undefined)


@dataclass(frozen=True)
class Mean:
    """The plain mean of figures, as POPE's over its splits; undefined if one of them is."""

    parts: tuple[Formula, ...]
    undefined: str

    def of(self, totals: Counts) -> float | None:
        """Return the mean of the parts; None where one of them is undefined."""
        values = [part.of(totals) for part in self.parts]
        defined = [value for value in values if value is not None]
        return sum(defined) / len(defined) if values and len(defined) == len(values) else None

    def of_many(self, totals: Mapping[str, Array]) -> Array:
        """Return the mean for many sums at once; NaN where one part is undefined."""
        import numpy as np

        mean: Array = np.mean([part.of_many(totals) for part in self.parts], axis=0)
        return mean

    def within(self, split: str) -> Mean:
        """Return the same over the counts of one split."""
        return Mean(tuple(part.within(split) for part in self.parts), self.undefined)


@dataclass(frozen=True)
class Sum:
    """The sum of figures, as MME's score over accuracy and accuracy of pairs; undefined if one of them is.

    Attributes:
        parts: what is added.
        undefined: why there is no value where a part has none.
        scale: the sum is multiplied by it.
    """

    parts: tuple[Formula, ...]
    undefined: str
    scale: float = 1.0

    def of(self, totals: Counts) -> float | None:
        """Return the scaled sum of the parts; None where one of them is undefined."""
        values = [part.of(totals) for part in self.parts]
        defined = [value for value in values if value is not None]
        # one after the other, as the published programs add: newer Pythons' `sum` carries what rounding loses
        return self.scale * reduce(add, defined) if values and len(defined) == len(values) else None

    def of_many(self, totals: Mapping[str, Array]) -> Array:
        """Return the scaled sum for many sums at once; NaN where one part is undefined."""
        import numpy as np

        added: Array = self.scale * np.sum([part.of_many(totals) for part in self.parts], axis=0)
        return added

    def within(self, split: str) -> Sum:
        """Return the same over the counts of one split."""
        return Sum(tuple(part.within(split) for part in self.parts), self.undefined, self.scale)


Formula = Ratio | HarmonicMean | Mean | Sum


def total(rows: Sequence[Counts]) -> dict[str, int]:
    """Return the sums of counts over rows; a row that lacks a count adds nothing to it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row.get(name, 0) for row in rows) for name in names}


def evaluate(formulas: Mapping[str, Formula], totals: Counts) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return (figure -> value or None, figure -> why it is undefined)."""
    values = {name: formula.of(totals) for name, formula in formulas.items()}
    return values, {name: formulas[name].undefined for name, value in values.items() if value is None}


def counts_of(formula: Formula) -> tuple[str, ...]:
    """Return the names of the counts that a figure is made of."""
    if isinstance(formula, Ratio):
        return formula.numerator, formula.denominator
    parts = (formula.first, formula.second) if isinstance(formula, HarmonicMean) else formula.parts
    return tuple(name for part in parts for name in counts_of(part))
