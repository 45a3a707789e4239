"""A metric's figures from scores: units that are pairs, splits that are averaged, added or pooled, and comparisons."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vlm_evals.errors import AnswerMismatch, EvaluationError
from vlm_evals.metric import Judging, Metric, Option, Scored
from vlm_evals.ratios import Ratio, Sum, total
from vlm_evals.records import Score
from vlm_evals.report import paired_report, single_report, write_report
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.pairs import compare

ACCURACY = Ratio("right", "questions", "there is no question")
BOTH = Ratio("pairs_right", "pairs", "there is no pair")


def pair_counts(scores: Sequence[Score]) -> dict[str, int]:
    """Return the counts of a pair of questions about one image: it counts when both answers are right."""
    counts = total([score.counts for score in scores])
    return counts | {"pairs": 1, "pairs_right": int(counts["right"] == counts["questions"])}


PAIRED = Metric(
    name="in-pairs",
    title="Paired",
    items="answers",
    ratios={
        "score": Sum((ACCURACY, BOTH), "there is no question", scale=100),
        "accuracy": ACCURACY,
        "pairs_right": BOTH,
    },
    labels={"score": "score", "accuracy": "accuracy"},
    numbers=frozenset({"score"}),
    headline="score",
    higher_is_better=True,
    accuracy="accuracy",
    tested=("pairs_right", "pairs answered rightly"),
    over_splits="sum",
    unit_counts=pair_counts,
    counted="questions",
    judging=Judging("Score pairs.", Option("file", "Answers.", Path), lambda file: Scored([])),
)


def answered(split: str, *pairs: tuple[bool, bool]) -> list[Score]:
    return [
        Score(f"{split}/{image}/{number}", f"{split}/{image}", {"questions": 1, "right": int(right)}, split)
        for image, pair in enumerate(pairs)
        for number, right in enumerate(pair)
    ]


PLAIN = [*answered("colour", (True, True), (True, False)), *answered("count", (True, False), (False, False))]
BETTER = [*answered("colour", (True, True), (True, True)), *answered("count", (True, True), (False, False))]


def test_a_pair_counts_when_both_are_right_and_splits_are_added() -> None:
    # colour: 3 of 4 right, 1 of 2 pairs -> 75 + 50; count: 1 of 4 right, 0 of 2 pairs -> 25 + 0; together 150
    found = PAIRED.corpus(PLAIN)
    assert found["splits"]["colour"]["score"] == 125
    assert found["splits"]["count"]["score"] == 25
    assert found["score"] == 150
    assert found["splits"]["colour"]["counts"] == {"questions": 4, "right": 3, "pairs": 2, "pairs_right": 1}
    assert found["accuracy"] == pytest.approx(0.75 + 0.25)


def test_means_and_pooled_counts_are_the_other_ways_over_splits() -> None:
    uneven = [*PLAIN, *answered("count", (True, True))]  # count: 3 of 6 right; the whole: 6 of 10
    uneven = [replace(score, key=f"{number}", unit=f"{number // 2}") for number, score in enumerate(uneven)]
    assert replace(PAIRED, over_splits="mean").corpus(uneven)["accuracy"] == pytest.approx((3 / 4 + 3 / 6) / 2)
    pooled = replace(PAIRED, over_splits="pooled").corpus(uneven)
    assert pooled["accuracy"] == 6 / 10
    assert pooled["counts"]["questions"] == 10
    assert pooled["splits"]["count"]["accuracy"] == 3 / 6
    whole = replace(PAIRED, over_splits=None).corpus(uneven)
    assert (whole["accuracy"], "splits" in whole) == (6 / 10, False)


def test_the_whole_may_have_figures_of_its_own() -> None:
    some = replace(PAIRED, whole_only=lambda splits: {"of colour": Sum((ACCURACY.within("colour"),), "no", scale=100)})
    found = compare(some, PLAIN, {"mitigated": BETTER}, resamples=50).pair()
    assert (found["plain"]["of colour"], found["mitigated"]["of colour"]) == (75, 100)
    assert found["difference"]["of colour"]["estimate"] == 25
    assert "of colour" not in found["splits"]["colour"]
    assert some.corpus([])["of colour"] is None


def test_a_split_without_a_figure_leaves_the_whole_undefined() -> None:
    named = replace(PAIRED, ratios={"accuracy": ACCURACY, "yes": Ratio("right", "said", "nobody said yes")})
    found = named.corpus(PLAIN)
    assert found["yes"] is None
    assert found["splits"]["colour"]["undefined"] == {"yes": "nobody said yes"}


@pytest.mark.parametrize("over", [None, "mean", "sum", "pooled"])
def test_no_scores_give_no_figures(over: Any) -> None:
    found = replace(PAIRED, over_splits=over).corpus([])
    assert {found[name] for name in PAIRED.ratios} == {None}


@pytest.mark.parametrize("over", [None, "mean", "sum", "pooled"])
def test_a_comparison_has_the_figures_of_the_corpus(over: Any) -> None:
    metric = replace(PAIRED, over_splits=over)
    found = compare(metric, PLAIN, {"mitigated": BETTER}, resamples=50).pair()
    before, after = metric.corpus(PLAIN), metric.corpus(BETTER)
    for name in metric.ratios:
        assert found["plain"][name] == before[name]
        assert found["difference"][name]["estimate"] == pytest.approx(after[name] - before[name])


def test_pairs_are_drawn_together_and_tested_as_pairs() -> None:
    # two pairs became right: (True, False) of colour and of count; nothing went the other way, so p = 2 * 1/4
    found = compare(PAIRED, PLAIN, {"mitigated": BETTER}, resamples=50).pair()
    assert (found["n"], found["questions"]) == (4, 8)
    assert found["mcnemar"]["pairs_right"] == {"only_plain": 0, "only_mitigated": 2, "p": 0.5}
    assert found["splits"]["count"]["accuracy"]["estimate"] == 0.25
    pooled = replace(PAIRED, over_splits="pooled")
    assert compare(pooled, PLAIN, {"mitigated": BETTER}, resamples=50).tests("mitigated") == found["mcnemar"]


def test_a_score_to_raise_has_its_own_words() -> None:
    many = [one for n in range(20) for one in (*answered(f"{n}", (True, False)),)]
    right = [one for n in range(20) for one in (*answered(f"{n}", (True, True)),)]
    metric = replace(PAIRED, over_splits=None)
    for before, after, said in ((many, right, "better"), (right, many, "worse"), (many, many, "no difference shown")):
        assert compare(metric, before, {"x": after}, resamples=50).verdict("x") == said


def test_a_table_has_every_run_beside_the_plain_one() -> None:
    found = compare(PAIRED, PLAIN, {"better": BETTER, "same": PLAIN}, resamples=50).table()
    assert list(found["controls"]) == ["better", "same"]
    assert found["controls"]["better"]["score"] == PAIRED.corpus(BETTER)["score"]
    assert found["controls"]["same"]["difference"]["score"] == {"estimate": 0, "low": 0, "high": 0}
    assert "method_minus_control" not in found["controls"]["better"]


def test_a_comparison_is_the_same_whoever_is_beside_it() -> None:
    alone = compare(PAIRED, PLAIN, {"better": BETTER}, seed=3, resamples=80)
    among = compare(PAIRED, PLAIN, {"same": PLAIN, "better": BETTER}, seed=3, resamples=80)
    assert alone.difference("better") == among.difference("better")


def test_runs_on_other_questions_are_refused_in_the_metrics_words() -> None:
    metric = replace(PAIRED, called=lambda score: f"the question {score.key}")
    with pytest.raises(AnswerMismatch, match="the question count/1/1 was answered in the first run alone"):
        compare(metric, PLAIN, {"x": BETTER[:-1]})


def test_a_report_of_a_metric_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vlm_evals.reports.tables as tables

    monkeypatch.setattr(tables, "find_metric", lambda name: {"in-pairs": PAIRED}[name])
    single = single_report(PAIRED, PLAIN, settings={})
    assert tables.headline(single) == "Paired of 8 answers"
    assert "| score | 125.00 | 25.00 | 150.00 | [" in markdown(single)
    report = paired_report([compare(PAIRED, PLAIN, {"mitigated": BETTER}, resamples=50)], settings={})
    text = markdown(report)
    assert text.startswith("# Paired: ")
    assert "Paired, sum over splits" in text
    assert "pairs answered rightly: 0 in the plain run alone, 2 in the mitigated run alone" in text
    assert PAIRED.label("pairs_right") == "pairs_right"  # a figure that has no name of its own
    assert [path.name for path in write_report(tmp_path, report)] == [
        "report.json",
        "report.md",
        "report.tex",
        "differences.png",
        "differences.svg",
    ]


def test_an_option_names_its_choices() -> None:
    option = Option("parser", "How.", choices=("strict", "loose"))
    option.check("loose")
    option.check(None)
    with pytest.raises(EvaluationError, match="unknown parser 'lose'; choose one of strict, loose"):
        option.check("lose")
