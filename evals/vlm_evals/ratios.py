"""Corpus metrics as data: each is a ratio of two counts, summed over samples first.

The same declaration gives the metric of a corpus, of a bootstrap resample and of a thousand resamples at once; a ratio
of nothing to nothing is undefined, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # a corpus needs no array, only its resamples do
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Ratio:
    """A metric.

    Attributes:
        numerator, denominator: names of counts.
        undefined: why there is no value where the denominator is zero.
    """

    numerator: str
    denominator: str
    undefined: str

    def of(self, totals: Counts) -> float | None:
        """Return the metric of summed counts; None where it is undefined."""
        below = totals[self.denominator]
        return totals[self.numerator] / below if below else None

    def of_many(self, totals: Mapping[str, Array]) -> Array:
        """Return the metric of many sums at once; NaN where it is undefined."""
        import numpy as np

        below = totals[self.denominator]
        value = np.full(below.shape, np.nan)
        np.divide(totals[self.numerator], below, out=value, where=below > 0)
        return value


@dataclass(frozen=True)
class HarmonicMean:
    """The harmonic mean of two ratios, F1 of precision and recall; 0 where both are 0."""

    first: Ratio
    second: Ratio
    undefined: str

    def of(self, totals: Counts) -> float | None:
        """Return the metric of summed counts; None where either ratio is undefined."""
        first, second = self.first.of(totals), self.second.of(totals)
        if first is None or second is None:
            return None
        return 2 * first * second / (first + second) if first + second else 0.0

    def of_many(self, totals: Mapping[str, Array]) -> Array:
        """Return the metric of many sums at once; NaN where either ratio is undefined."""
        import numpy as np

        first, second = self.first.of_many(totals), self.second.of_many(totals)
        value = first + second  # NaN or 0 stays where nothing is divided
        np.divide(2 * first * second, first + second, out=value, where=first + second > 0)
        return value


@dataclass(frozen=True)
class Mean:
    """The plain mean of a metric over parts of a corpus, as POPE's over its splits; undefined if one part is."""

    parts: tuple[Ratio | HarmonicMean, ...]
    undefined: str

    def of(self, totals: Counts) -> float | None:
        """Return the mean of the parts' metrics; None where one of them is undefined."""
        values = [part.of(totals) for part in self.parts]
        defined = [value for value in values if value is not None]
        return sum(defined) / len(defined) if values and len(defined) == len(values) else None

    def of_many(self, totals: Mapping[str, Array]) -> Array:
        """Return the mean for many sums at once; NaN where one part is undefined."""
        import numpy as np

        mean: Array = np.mean([part.of_many(totals) for part in self.parts], axis=0)
        return mean


Metric = Ratio | HarmonicMean | Mean


def total(rows: Sequence[Counts]) -> dict[str, int]:
    """Return the sums of counts over samples; no sample gives no count."""
    if not rows:
        return {}
    return {name: sum(row[name] for row in rows) for name in rows[0]}


def evaluate(ratios: Mapping[str, Metric], totals: Counts) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return (metric -> value or None, metric -> why it is undefined)."""
    values = {name: ratio.of(totals) for name, ratio in ratios.items()}
    return values, {name: ratios[name].undefined for name, value in values.items() if value is None}
