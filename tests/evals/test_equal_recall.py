"""Runs beside the plain model's curve: worked examples of the difference, its share, its p, and of two runs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.compare import Resampled, interval
from vlm_evals.equal_recall import OffCurve, interpolate, off_curve, sign_p
from vlm_evals.ratios import Ratio

INVENTED, RECALL = Ratio("invented", "said", "nothing was said"), Ratio("found", "there", "nothing was there")


def counts(invented: int, found: int) -> list[dict[str, int]]:
    """Return five items that all look alike, so that every resample has the same figures: of 20 said and 20 there."""
    return [{"invented": invented, "said": 20, "found": found, "there": 20}] * 5


def placed(*runs: tuple[int, int]) -> list[OffCurve]:
    """Return runs beside the curve from (recall 0.4, 0.2 invented) to (recall 0.8, 0.4 invented)."""
    resampled = Resampled([counts(8, 16), counts(4, 8), *(counts(*run) for run in runs)], seed=0, resamples=9)
    both = range(2, 2 + len(runs))
    return [off_curve(resampled, {"i": INVENTED}, RECALL, method=run, curve=[0, 1])["i"] for run in both]


def test_a_difference_its_share_and_its_p_by_hand() -> None:
    """Half-way along the curve 0.3 is invented; a run that invents 0.15 there lies 0.15 below it, half of 0.3."""
    [run] = placed((3, 12))
    for found, value in ((run.difference, -0.15), (run.relative, -0.5)):
        assert [found.value, found.low, found.high] == pytest.approx([value] * 3)
    assert run.p == pytest.approx(2 * 1 / 10)  # none of 9 resamples at or above zero, and one more is counted


def test_a_run_on_the_curve_is_no_different_whatever_is_rounded() -> None:
    [run] = placed((6, 12))
    assert run.difference.value == pytest.approx(0)
    assert run.p == 1


def test_two_runs_are_compared_each_at_its_own_recall() -> None:
    """0.15 below the curve at recall 0.6, and 0.05 below it at recall 0.4: 0.10 farther."""
    one, other = placed((3, 12), (3, 8))
    assert one.minus(other).value == pytest.approx(-0.10)
    assert one.minus(one).value == 0


def test_a_run_off_the_curve_has_no_number_and_says_why() -> None:
    off, on = placed((3, 18), (3, 12))
    assert off.p is None
    for found in (off.difference, off.relative, off.minus(on), on.minus(off)):
        assert found.value is None
        assert "outside the plain model's curve" in (found.undefined or "")


def test_no_share_of_nothing() -> None:
    [run] = placed((3, 12))
    nothing = replace(run, on_curve=0.0, on_curves=np.zeros(9))
    assert nothing.difference.value == pytest.approx(0.15)
    assert "invents nothing" in (nothing.relative.undefined or "")
    often = replace(run, on_curves=np.array([0.3] * 8 + [0.0]))  # one of nine is more than one of twenty
    assert often.relative.value is None


def test_p_by_hand() -> None:
    """3 of 99 resamples are not below zero: 2 (3 + 1) / 100. Resamples without a value do not count."""
    samples = np.array([-1.0] * 96 + [0.0, 0.5, 1.0, np.nan])
    assert sign_p(samples) == sign_p(-samples) == pytest.approx(0.08)


@given(st.integers(0, 2**32 - 1), st.floats(1.8, 2.2))
def test_p_is_below_one_in_twenty_where_the_interval_leaves_zero_out(seed: int, shift: float) -> None:
    samples = np.random.default_rng(seed).normal(size=1999) + shift
    p = sign_p(samples)
    if interval(0.0, samples, "").above_zero:
        assert p <= 0.05 + 2 / 2000  # one resample more is counted
    else:
        assert p >= 0.05


@given(
    # 32 bits: nearer points have slopes beyond the range of numpy's own interpolation
    st.lists(
        st.tuples(st.floats(0, 1, width=32), st.floats(-1, 1)), min_size=2, max_size=6, unique_by=lambda point: point[0]
    ),
    st.floats(0, 1, width=32),
)
def test_interpolation_is_numpys_within_the_points(points: list[tuple[float, float]], at: float) -> None:
    x, y = (np.array([values]) for values in zip(*points, strict=True))
    found = interpolate(x, y, np.array([at]))[0]
    order = np.argsort(x[0])
    if x.min() <= at <= x.max():
        assert found == pytest.approx(np.interp(at, x[0][order], y[0][order]), abs=1e-9)
    else:
        assert np.isnan(found)


def test_interpolation_between_points_that_nearly_coincide_stays_between_them() -> None:
    """Half-way between 0 and 2e-311, and far from both."""
    x, y = np.array([[0.0, 2e-311]] * 2), np.array([[0.0, 1.0]] * 2)
    found = interpolate(x, y, np.array([1e-311, 1.0]))
    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1])
