"""Runs beside the plain model's trade-off curve: how far they lie from it at equal recall, and between two of them.

The curve is the plain model at several end-of-text biases. In every resample it is interpolated, linearly in recall, at
the method's recall in that resample. A method that only stops earlier or later lies on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlm_evals.compare import LEVEL, SAME, Estimate, Resampled, interval
from vlm_evals.ratios import Formula

if TYPE_CHECKING:
    from vlm_evals.ratios import Array

_NOTHING = "the plain model invents nothing at this recall, so there is no share of it"


@dataclass(frozen=True)
class OffCurve:
    """One figure of a run beside the curve at the run's own recall.

    Attributes:
        value: of the run; None where it cannot be compared.
        on_curve: the curve's at the run's recall; None where it cannot be compared.
        values: of the run in every resample, `[resamples]`.
        on_curves: the curve's in every resample; NaN where the run leaves the curve.
        undefined: why there is no number, where there is none.
    """

    value: float | None
    on_curve: float | None
    values: Array
    on_curves: Array
    undefined: str

    @property
    def difference(self) -> Estimate:
        """The run minus the curve."""
        return interval(self._off, self.values - self.on_curves, self.undefined)

    @property
    def relative(self) -> Estimate:
        """The run minus the curve, as a share of the curve; undefined where the curve is zero, or often is."""
        if self._off is None or self.on_curve is None:
            return self.difference
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(self.on_curves > 0, (self.values - self.on_curves) / self.on_curves, np.nan)
        if self.on_curve == 0 or _often_missing(shares):
            return Estimate(None, undefined=_NOTHING)
        return interval(self._off / self.on_curve, shares, self.undefined)

    @property
    def p(self) -> float | None:
        """The two-sided p of no difference from the curve; None where there is no difference. See `sign_p`."""
        return None if self._off is None else sign_p(self.values - self.on_curves)

    def minus(self, other: OffCurve) -> Estimate:
        """Return how much farther below or above the curve this run lies than another, each at its own recall."""
        if self._off is None or other._off is None:
            return Estimate(None, undefined=(self if self._off is None else other).undefined)
        apart = (self.values - self.on_curves) - (other.values - other.on_curves)
        if _often_missing(apart):
            return Estimate(None, undefined="one of the two leaves the plain model's curve in too many resamples")
        return interval(self._off - other._off, apart, self.undefined)

    @property
    def _off(self) -> float | None:
        return None if self.value is None or self.on_curve is None else self.value - self.on_curve


def sign_p(samples: Array) -> float:
    """Return the two-sided p of zero from resampled differences.

    It is twice the share of resamples on the rarer side of zero, one more counted on either side, and at most 1. So it
    is below 0.05 where the percentile interval of 95 % leaves zero out, up to that one.

    Args:
        samples: differences; NaN is left out.
    """
    defined = samples[~np.isnan(samples)]
    rarer = min((defined <= SAME).sum(), (defined >= -SAME).sum())
    return min(1.0, 2 * float(1 + rarer) / (1 + len(defined)))


def at_equal_recall(
    resampled: Resampled,
    figures: Mapping[str, Formula],
    recall: Formula,
    *,
    method: int,
    curve: Sequence[int],
    called: str = "recall",
) -> dict[str, Estimate]:
    """Return figure -> method minus curve; see `off_curve`."""
    found = off_curve(resampled, figures, recall, method=method, curve=curve, called=called)
    return {name: one.difference for name, one in found.items()}


def off_curve(
    resampled: Resampled,
    figures: Mapping[str, Formula],
    recall: Formula,
    *,
    method: int,
    curve: Sequence[int],
    called: str = "recall",
) -> dict[str, OffCurve]:
    """Return where a method lies beside the plain model's trade-off curve at the method's own recall.

    Args:
        resampled: the counts of all runs.
        figures: what to compare, by name.
        recall: the figure the curve is drawn over; it may be another, such as length.
        method: index of the method's run.
        curve: indices of the plain runs, in any order.
        called: that figure, in words.

    Returns:
        By figure; undefined where the method's recall is outside the curve, as it is or in more than one of twenty
        resamples.
    """
    at = resampled.value(recall, method)
    ends = [resampled.value(recall, run) for run in curve]
    known = [end for end in ends if end is not None]
    if at is None or len(known) != len(curve) or len(curve) < 2 or not min(known) <= at <= max(known):
        reason = f"the method's {called} lies outside the plain model's curve; add end-of-text biases"
        return {name: _undefined(reason) for name in figures}
    recalls = np.stack([resampled.samples(recall, run) for run in curve], axis=1)
    own = resampled.samples(recall, method)
    found = {}
    for name, formula in figures.items():
        values = np.array([[resampled.value(formula, run) for run in curve]], dtype=np.float64)
        here = interpolate(np.array([known]), values, np.array([at]))[0]
        there = interpolate(recalls, np.stack([resampled.samples(formula, run) for run in curve], axis=1), own)
        found[name] = _placed(resampled, formula, method, float(here), there, called)
    return found


def _placed(resampled: Resampled, formula: Formula, method: int, here: float, there: Array, called: str) -> OffCurve:
    """Return a figure beside interpolated values, unless too many resamples leave the curve."""
    value = resampled.value(formula, method)
    if _often_missing(there):
        return _undefined(f"the method's {called} leaves the plain model's curve in too many resamples")
    if value is None or np.isnan(here):
        return _undefined(formula.undefined)
    return OffCurve(value, here, resampled.samples(formula, method), there, formula.undefined)


def _undefined(reason: str) -> OffCurve:
    return OffCurve(None, None, np.empty(0), np.empty(0), reason)


def _often_missing(samples: Array) -> bool:
    return bool(np.isnan(samples).mean() > 1 - LEVEL)


def interpolate(x: Array, y: Array, at: Array) -> Array:
    """Return y, linear in x, at one place per row; NaN outside the row's range of x.

    Args:
        x: [rows, points], in any order within a row.
        y: [rows, points].
        at: [rows].
    """
    order = np.argsort(x, axis=1, kind="stable")
    x, y = np.take_along_axis(x, order, axis=1), np.take_along_axis(y, order, axis=1)
    right = np.clip((x < at[:, None]).sum(axis=1), 1, x.shape[1] - 1)[:, None]
    x0, x1 = (np.take_along_axis(x, right - back, axis=1)[:, 0] for back in (1, 0))
    y0, y1 = (np.take_along_axis(y, right - back, axis=1)[:, 0] for back in (1, 0))
    width = x1 - x0
    within = np.clip(at, x0, x1)  # elsewhere the quotient may overflow, and is not used
    share = np.divide(within - x0, width, out=np.full(len(at), 0.5), where=width > 0)
    inside = (at >= x[:, 0]) & (at <= x[:, -1])
    return np.where(inside, y0 + share * (y1 - y0), np.nan)
