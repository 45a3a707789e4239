"""Paired comparison: laws, known coverage, and a method that only stops earlier is found out."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.compare import Estimate, Resampled, interval, mcnemar, paired, resampled_sums
from vlm_evals.data.formats import Question
from vlm_evals.errors import AnswerMismatch
from vlm_evals.metrics.chair import CHAIR, RATIOS, CaptionScore
from vlm_evals.metrics.pope import POPE, QuestionScore
from vlm_evals.ratios import HarmonicMean, Mean, Ratio
from vlm_evals.records import Score
from vlm_evals.reports.pairs import compare, intervals
from vlm_evals.reports.verdict import verdict
from vlm_evals.text.objects import CaptionObjects, Mention

TRUE = ("dog", "cat", "car", "bus", "bed")
FALSE = ("kite", "oven", "sink", "vase", "book")


def compare_chair(plain, mitigated, *, curve=None, controls=None, **more) -> dict:
    """Return captions compared as a paired report has them."""
    runs = {"mitigated": mitigated, **(controls or {})}
    others = {name: as_scores(run) for name, run in runs.items()}
    points = {bias: as_scores(run) for bias, run in (curve or {}).items()}
    return compare(CHAIR, as_scores(plain), others, curve=points, **more).pair()


def compare_pope(plain, mitigated, **more) -> dict:
    """Return answers compared as a paired report has them."""
    return compare(POPE, as_scores(plain), {"mitigated": as_scores(mitigated)}, **more).pair()


def as_scores(found) -> list[Score]:
    return [one.as_score() for one in found]


def caption(image: int, nodes: list[str], truth: tuple[str, ...] = TRUE) -> CaptionScore:
    said = CaptionObjects(tuple(Mention(node, node) for node in nodes), tuple(nodes), ("a sentence",))
    return CaptionScore(image, said, frozenset(truth))


def simulated(images: int, seed: int, *, stop: float, cured: float = 0.0) -> list[CaptionScore]:
    """Return captions of a made model: later mentions are more often invented, and it stops after about `stop` of 10.

    What an image would be said to hold is the same for every run; where the caption stops is a run's own noise.

    Args:
        images: how many.
        seed: of the images.
        stop: mean number of mentions.
        cured: share of inventions that are left out.
    """
    scores = []
    for image in range(images):
        of_image = random.Random(f"{seed} {image}")
        order = of_image.sample(TRUE, 5)
        plan = [of_image.choice(FALSE) if of_image.random() < 0.03 + 0.05 * n else order[n // 2] for n in range(10)]
        kept = [node for node in plan if node in TRUE or of_image.random() >= cured]
        own = random.Random(f"{seed} {image} {stop} {cured}")
        scores.append(caption(image, kept[: max(1, min(10, round(own.gauss(stop, 1.5))))]))
    return scores


PLAIN = simulated(120, 1, stop=8)
MITIGATED = simulated(120, 1, stop=7, cured=0.3)


def test_identical_runs_give_no_difference() -> None:
    found = compare_chair(PLAIN, PLAIN, curve={1.0: PLAIN}, controls={"same": PLAIN}, resamples=200)
    assert found["verdict"] == "no difference shown"
    assert all(row == {"estimate": 0, "low": 0, "high": 0} for row in found["difference"].values())
    assert found["mcnemar"]["chair_s"] == {"only_plain": 0, "only_mitigated": 0, "p": 1.0}
    assert found["controls"]["same"]["method_minus_control"]["chair_s"]["estimate"] == 0


def test_swapping_flips_every_sign() -> None:
    there = compare_chair(PLAIN, MITIGATED, resamples=300, seed=3)
    back = compare_chair(MITIGATED, PLAIN, resamples=300, seed=3)
    for name, row in there["difference"].items():
        other = back["difference"][name]
        assert row["estimate"] == -other["estimate"]
        assert (row["low"], row["high"]) == pytest.approx((-other["high"], -other["low"]), abs=1e-12)
    assert there["mcnemar"]["chair_s"]["p"] == back["mcnemar"]["chair_s"]["p"]
    assert there["plain"]["chair_s"] == back["mitigated"]["chair_s"]


def test_the_seed_decides_the_intervals_and_nothing_else() -> None:
    one, same, other = (compare_chair(PLAIN, MITIGATED, resamples=100, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one["difference"]["chair_s"]["estimate"] == other["difference"]["chair_s"]["estimate"]
    assert one["difference"]["chair_s"] != other["difference"]["chair_s"]


def test_items_in_another_order_are_paired() -> None:
    shuffled = random.Random(0).sample(MITIGATED, len(MITIGATED))
    assert compare_chair(PLAIN, shuffled, resamples=50) == compare_chair(PLAIN, MITIGATED, resamples=50)


def test_runs_on_other_items_are_refused_by_name() -> None:
    with pytest.raises(AnswerMismatch, match="image 119 was answered in the first run alone"):
        compare_chair(PLAIN, MITIGATED[:-1])
    with pytest.raises(AnswerMismatch, match="image 119 was answered in the second run alone"):
        compare_chair(PLAIN[:-1], MITIGATED)
    with pytest.raises(AnswerMismatch, match="0 items"):
        compare_chair([], [])
    assert paired([1, 1], [1, 1], str) == ([1, 1], [1, 1])


def test_intervals_cover_the_truth_at_about_their_rate() -> None:
    """A made difference of 0.10 in CHAIR_S: 95 % intervals of 300 experiments hold it in 89 to 98.5 % of them."""
    generator = np.random.default_rng(0)
    ratio = {"rate": Ratio("invented", "captions", "")}["rate"]
    covered = 0
    for experiment in range(300):
        shared = generator.random(200)  # a hard image is hard for both runs
        runs = [
            [{"invented": int(value < rate), "captions": 1} for value in 0.7 * shared + 0.3 * generator.random(200)]
            for rate in (0.5, 0.4)
        ]
        estimate = Resampled(runs, seed=experiment, resamples=400).difference(ratio, 1, 0)
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= _TRUE_DIFFERENCE <= estimate.high
    assert 0.89 <= covered / 300 <= 0.985


# P(0.7 U + 0.3 V < t) for 0.3 <= t <= 0.7 is (t - 0.15) / 0.7, so the rates 0.5 and 0.4 differ by 0.1 / 0.7
_TRUE_DIFFERENCE = -0.1 / 0.7


def test_a_method_that_only_stops_earlier_lies_on_the_curve() -> None:
    called_better = 0
    for seed in range(12):
        plain = simulated(300, seed, stop=8)
        curve = {bias: simulated(300, seed, stop=stop) for bias, stop in ((-1.0, 9.0), (0.5, 6.5), (1.2, 5), (2.6, 3))}
        shorter = simulated(300, seed, stop=5.8)
        found = compare_chair(plain, shorter, curve=curve, resamples=300, seed=seed)
        assert found["difference"]["chair_s"]["high"] < 0  # without the curve it looks like a mitigation
        assert found["difference"]["recall"]["high"] < 0
        called_better += found["verdict"] == "fewer hallucinations at equal recall"
    assert called_better <= 2  # 12 experiments at 2.5 % each


def test_a_method_that_leaves_inventions_out_lies_below_the_curve() -> None:
    plain = simulated(300, 5, stop=8)
    curve = {bias: simulated(300, 5, stop=stop) for bias, stop in ((-1.0, 9.0), (0.5, 6.5), (1.2, 5), (2.6, 3))}
    found = compare_chair(plain, simulated(300, 5, stop=7, cured=0.6), curve=curve, resamples=300)
    assert found["curve"]["difference"]["chair_s"]["high"] < 0
    assert found["verdict"] == "fewer hallucinations at equal recall"
    assert [point["bias"] for point in found["curve"]["points"]] == [-1.0, 0.0, 0.5, 1.2, 2.6]


def test_a_method_outside_the_curve_has_no_difference_at_equal_recall() -> None:
    short = simulated(120, 1, stop=2)
    found = compare_chair(PLAIN, short, curve={1.0: simulated(120, 1, stop=7)}, resamples=100)
    equal = found["curve"]["difference"]["chair_s"]
    assert equal["estimate"] is None
    assert "outside the plain model's curve" in equal["undefined"]
    assert found["verdict"] == "fewer hallucinations, recall lost"


def test_controls_are_compared_with_plain_and_with_the_method() -> None:
    found = compare_chair(PLAIN, MITIGATED, controls={"bottom heads": PLAIN}, resamples=100)
    control = found["controls"]["bottom heads"]
    assert control["difference"]["chair_s"]["estimate"] == 0
    assert control["method_minus_control"]["chair_s"] == found["difference"]["chair_s"]


def test_undefined_metrics_stay_undefined() -> None:
    silent = [caption(image, []) for image in range(5)]
    found = compare_chair(silent, silent, resamples=50)
    assert found["difference"]["chair_i"] == {
        "estimate": None,
        "low": None,
        "high": None,
        "undefined": "no caption mentions an object",
    }
    assert found["plain"]["intervals"]["chair_i"] == [None, None]


def test_mcnemar_by_hand() -> None:
    # 1 against 9 of 10 differing pairs: 2 * (C(10,0) + C(10,1)) / 2^10 = 22 / 1024
    plain = [True] + [False] * 9 + [True] * 5
    other = [False] + [True] * 9 + [True] * 5
    assert mcnemar(plain, other) == {"only_plain": 1, "only_mitigated": 9, "p": pytest.approx(22 / 1024)}


def test_resamples_draw_as_many_items_as_there_are() -> None:
    table = np.stack([np.ones(50), np.arange(50.0)], axis=1)
    sums = resampled_sums(table, seed=0, resamples=500)
    assert (sums[:, 0] == 50).all()
    assert abs(sums[:, 1].mean() - table[:, 1].sum()) < 4 * table[:, 1].std() * np.sqrt(50 / 500)
    assert np.array_equal(sums, resampled_sums(table, seed=0, resamples=500))


def test_resamples_without_a_value_are_left_out() -> None:
    assert interval(1.0, np.array([np.nan, 1.0, 1.0]), "") == Estimate(1.0, 1.0, 1.0)
    assert interval(1.0, np.array([np.nan]), "nothing") == Estimate(None, undefined="nothing")


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_metrics_of_many_sums_are_those_of_one(numerator: int, denominator: int, other: int) -> None:
    first, second = Ratio("a", "b", ""), Ratio("a", "c", "")
    totals = {"a": numerator, "b": denominator, "c": other}
    for metric in (first, HarmonicMean(first, second, ""), Mean((first, second), "")):
        one = metric.of(totals)
        many = metric.of_many({name: np.array([float(count)]) for name, count in totals.items()})[0]
        assert np.isnan(many) if one is None else many == pytest.approx(one)


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high)


LOWER, HIGHER, SAME = estimate(-0.2, -0.1), estimate(0.1, 0.2), estimate(-0.1, 0.1)
UNKNOWN = Estimate(None, undefined="outside")


@pytest.mark.parametrize(
    ("hallucination", "recall", "curve", "accuracy", "expected"),
    [
        (LOWER, SAME, None, None, "fewer hallucinations at equal recall"),
        (LOWER, HIGHER, None, None, "fewer hallucinations at equal recall"),
        (LOWER, LOWER, None, None, "fewer hallucinations, recall lost"),
        (SAME, SAME, None, None, "no difference shown"),
        (SAME, HIGHER, None, None, "no difference shown"),
        (SAME, LOWER, None, None, "worse"),
        (HIGHER, HIGHER, None, None, "worse"),
        (LOWER, LOWER, LOWER, None, "fewer hallucinations at equal recall"),
        (HIGHER, HIGHER, LOWER, None, "fewer hallucinations at equal recall"),
        (LOWER, LOWER, HIGHER, None, "worse"),
        (LOWER, LOWER, SAME, None, "fewer hallucinations, recall lost"),
        (LOWER, SAME, SAME, None, "no difference shown"),
        (HIGHER, HIGHER, SAME, None, "no difference shown"),
        (HIGHER, SAME, SAME, None, "worse"),
        (LOWER, LOWER, UNKNOWN, None, "fewer hallucinations, recall lost"),
        (LOWER, SAME, UNKNOWN, None, "fewer hallucinations at equal recall"),
        (LOWER, SAME, None, LOWER, "worse"),
        (HIGHER, HIGHER, None, HIGHER, "no difference shown"),
    ],
)
def test_the_first_line(hallucination, recall, curve, accuracy, expected: str) -> None:
    assert verdict(hallucination, recall, curve=curve, accuracy=accuracy) == expected


def answered(readings: list[str], split: str = "random") -> list[QuestionScore]:
    return [
        QuestionScore(Question(str(n), f"{n // 6}.jpg", "?", "yes" if n % 2 else "no", split), reading, reading)
        for n, reading in enumerate(readings)
    ]


def test_pope_is_compared_within_splits_and_over_them() -> None:
    plain = [*answered(["yes"] * 60), *answered(["no", "yes"] * 30, "popular")]
    better = [*answered(["no", "yes"] * 30), *answered(["no", "yes"] * 30, "popular")]
    found = compare_pope(plain, better, resamples=100)
    assert found["plain"]["accuracy"] == (0.5 + 1.0) / 2
    assert found["difference"]["accuracy"]["estimate"] == 0.25
    assert found["splits"]["random"]["accuracy"]["estimate"] == 0.5
    assert found["splits"]["popular"]["accuracy"] == {"estimate": 0, "low": 0, "high": 0}
    assert found["mcnemar"]["accuracy"]["only_mitigated"] == 30
    assert found["verdict"] == "fewer hallucinations at equal recall"
    assert (found["n"], found["questions"]) == (10, 120)
    assert compare_pope(plain, plain, resamples=50)["verdict"] == "no difference shown"


def test_all_questions_about_an_image_are_drawn_together() -> None:
    # right for every question of an even image and wrong for those of an odd one: 20 independent outcomes, not 120
    clustered = [("yes" if n % 2 else "no") if (n // 6) % 2 else ("no" if n % 2 else "yes") for n in range(120)]
    spread = [("yes" if n % 2 else "no") if n % 4 < 2 else ("no" if n % 2 else "yes") for n in range(120)]
    widths = []
    for readings in (clustered, spread):
        low, high = intervals(POPE, as_scores(answered(readings)), seed=0, resamples=500)["accuracy"]
        widths.append(high - low)
    assert widths[0] > 2 * widths[1]


def test_every_metric_of_chair_is_compared() -> None:
    assert set(compare_chair(PLAIN, MITIGATED, resamples=20)["difference"]) == set(RATIOS)
