"""Many runs against one: tests and their correction, who dominates whom, equal recall and length, and the pictures."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.compare import Resampled, holm
from vlm_evals.metrics.chair import CHAIR, CaptionScore
from vlm_evals.metrics.pope import POPE
from vlm_evals.ratios import Ratio
from vlm_evals.records import Score
from vlm_evals.registry import find_metric
from vlm_evals.report import write_report
from vlm_evals.reports.frontier import Entry, Field, frontier_report
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.tables import headline, tables
from vlm_evals.text.objects import CaptionObjects, Mention

from tests.evals.test_report import answers

SHARE = Ratio("bad", "all", "nothing was said")


def reference_p(one: list[dict[str, int]], other: list[dict[str, int]]) -> float:
    """Return p over every way to swap the items of two runs: what the swap test draws from."""

    def share(run: list[dict[str, int]]) -> float:
        return sum(item["bad"] for item in run) / sum(item["all"] for item in run)

    seen = abs(share(one) - share(other))
    swapped = []
    for swaps in itertools.product((False, True), repeat=len(one)):
        here = [b if swap else a for a, b, swap in zip(one, other, swaps, strict=True)]
        there = [a if swap else b for a, b, swap in zip(one, other, swaps, strict=True)]
        swapped.append(abs(share(here) - share(there)) >= seen - 1e-12)
    return sum(swapped) / len(swapped)


def items(bad: list[int], said: list[int]) -> list[dict[str, int]]:
    return [{"bad": one, "all": two} for one, two in zip(bad, said, strict=True)]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([0, 0, 1, 0, 0, 2, 0, 0], [3, 2, 4, 1, 2, 3, 2, 2]),
        ([1, 1, 1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2, 2, 2]),
        ([0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_swap_test_draws_from_every_way_to_swap(bad: list[int], said: list[int]) -> None:
    base = items([1, 0, 2, 1, 1, 2, 1, 0], [2, 3, 4, 2, 2, 3, 2, 3])
    method = items(bad, said)
    found = Resampled([base, method], seed=0, resamples=10).swap_tests({"share": SHARE}, 1, 0, seed=1, swaps=20_000)
    assert found["share"] == pytest.approx(reference_p(method, base), abs=0.015)


def test_a_run_against_itself_has_p_of_one_and_nothing_said_has_none() -> None:
    base = items([1, 0, 2], [2, 3, 4])
    silent = items([0, 0, 0], [0, 0, 0])
    resampled = Resampled([base, base, silent], seed=0, resamples=10)
    assert resampled.swap_tests({"share": SHARE}, 1, 0, seed=0, swaps=99) == {"share": 1.0}
    assert resampled.swap_tests({"share": SHARE}, 2, 0, seed=0, swaps=99) == {"share": None}


def test_holm_multiplies_the_smallest_by_how_many_there_are() -> None:
    # in order 0.01 · 4, 0.02 · 3, 0.03 · 2 = 0.06 as well, 0.9 · 1; the one without p does not count
    found = holm({"d": 0.9, "b": 0.02, "none": None, "a": 0.01, "c": 0.03})
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.9, "none": None}, abs=1e-12)
    assert holm({"a": 0.03, "b": 0.025}) == pytest.approx({"b": 0.05, "a": 0.05})  # 0.03 alone, but not below 0.05
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(ps: list[float]) -> None:
    found = holm({str(place): p for place, p in enumerate(ps)})
    for place, p in enumerate(ps):
        corrected = found[str(place)]
        assert corrected is not None
        assert p <= corrected <= min(1.0, p * len(ps)) or corrected == pytest.approx(p * len(ps))
        # it rejects at 0.05 whatever Bonferroni's correction rejects
        assert corrected <= 0.05 or p * len(ps) > 0.05 - 1e-12


def captions(*said: str) -> list[Score]:
    """Return scores of captions of images with a dog and a cat; every word is an object."""
    return [
        CaptionScore(
            image,
            CaptionObjects(tuple(Mention(node, node) for node in words.split()), tuple(words.split()), (words,)),
            frozenset({"dog", "cat"}),
        ).as_score()
        for image, words in enumerate(said)
    ]


# of images with two objects each:               found  distinct  invented   recall  CHAIR_I distinct
BASE = captions("dog cat oven", "dog", "cat")  #    4       5         1        4/6       1/5
BETTER = captions("dog cat", "dog", "cat")  #       4       4         0        4/6       0
WORSE = captions("dog oven kite", "dog", "")  #     2       4         2        2/6       2/4
MORE = captions("dog cat oven kite", "dog cat", "cat dog car")  # 6  9  3      6/6       3/9
SHORT = captions("dog", "dog", "")  #               2       2         0        2/6       0


def field(**more: object) -> Field:
    entries = [
        Entry("method", BETTER, said="vhr:gain=2"),
        Entry("method: control", WORSE, "control", of="method"),
        Entry("short", SHORT, "end-of-text", strength=1.0),
        Entry("long", MORE, "end-of-text", strength=-1.0),
        Entry("first", WORSE, "first-word", strength=1.0),
    ]
    return Field(CHAIR, Entry("plain", BASE), entries, seed=0, resamples=200, swaps=99, **more)  # type: ignore[arg-type]


def report() -> dict:
    return frontier_report(field(), settings={"pipeline": "chair-2018"}, failures={})


def test_who_is_dominated() -> None:
    found = report()
    # better beats base (as much found, less invented), worse and short; more alone finds everything
    assert found["undominated"] == ["method", "long"]
    method, control = found["rows"]
    assert method["undominated"]
    assert not control["undominated"]
    assert 0 < method["share"] <= 1
    assert control["share"] is None
    assert not found["plain"]["undominated"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_nobody_dominates_an_undominated_run(counts: list[tuple[int, int]]) -> None:
    runs = [
        [Score("0", "0", CaptionScore(0, CaptionObjects((), (), ()), frozenset()).counts() | {
            "truth": 4, "found": found, "distinct": found + invented, "distinct_hallucinated": invented,
        })]
        for found, invented in counts
    ]  # fmt: skip
    base, *others = (Entry(str(place), scores) for place, scores in enumerate(runs))
    free = Field(CHAIR, base, others, seed=0, resamples=3, swaps=1).undominated()
    figures = [CHAIR.corpus(scores) for scores in runs]
    for place, one in enumerate(figures):
        if one["chair_i_distinct"] is None:
            assert place not in free
            continue
        dominated = any(
            other["chair_i_distinct"] is not None
            and other["recall"] >= one["recall"]
            and other["chair_i_distinct"] <= one["chair_i_distinct"]
            and (other["recall"], other["chair_i_distinct"]) != (one["recall"], one["chair_i_distinct"])
            for other in figures
        )
        assert (place in free) is not dominated


def test_a_row_has_its_differences_tests_and_controls() -> None:
    found = report()
    method = found["rows"][0]
    assert method["difference"]["chair_i_distinct"]["estimate"] == -0.2
    assert method["difference"]["recall"]["estimate"] == 0
    assert set(method["p"]) == set(method["holm"]) == {"chair_s", "chair_i_distinct", "recall"}
    assert method["holm"]["chair_s"] >= method["p"]["chair_s"]
    assert set(method["beats"]) == {"method: control"}
    assert found["tests"] == {
        "figures": ["chair_s", "chair_i_distinct", "recall"], "comparisons": 2, "swaps": 99, "correction": "Holm",
    }  # fmt: skip
    assert found["line"] == "end-of-text"
    assert [point["strength"] for point in found["lines"]["end-of-text"]] == [-1.0, 1.0]


def test_at_equal_length_the_line_is_read_at_the_runs_own_length() -> None:
    # the line by length: short 2/3 words, plain 5/3, long 9/3. The method has 4/3: two thirds of the way from short to
    # plain, where CHAIR_I of distinct objects is 2/3 · 1/5; the method's own is 0
    short, base, better, more = (
        captions(*(words for _ in range(40) for words in one))
        for one in (
            ("dog", "dog", ""), ("dog cat oven", "dog", "cat"), ("dog cat", "dog", "cat"),
            ("dog cat oven kite", "dog cat", "cat dog car"),
        )
    )  # fmt: skip
    entries = [Entry("method", better), Entry("s", short, "end-of-text", strength=1.0)]
    entries.append(Entry("l", more, "end-of-text", strength=-1.0))
    found = Field(CHAIR, Entry("plain", base), entries, seed=0, resamples=200, swaps=9)
    assert found.at_equal("mean_tokens", 1)["chair_i_distinct"].value == pytest.approx(-2 / 15)
    assert found.at_equal("recall", 1)["chair_i_distinct"].value == pytest.approx(-1 / 5)


def test_the_answers_cut_are_the_line_where_there_are_no_biases() -> None:
    entries = [Entry("method", BETTER), Entry("cut after 1 words", SHORT, "cut", strength=1)]
    found = frontier_report(
        Field(CHAIR, Entry("plain", BASE), entries, seed=0, resamples=50, swaps=9), settings={}, failures={}
    )
    assert found["line"] == "cut"
    assert [table.title for table in tables(found)][-1] == "The same answers, cut"
    assert len(found["rows"]) == 1


def test_the_first_line_names_runs_and_not_points_of_lines() -> None:
    assert headline(report()) == (
        "CHAIR of 3 images, 2 runs against plain; not dominated in recall and CHAIR_I, distinct objects: method; "
        "better than every control: none"
    )


def test_tables_are_text_and_say_what_was_corrected() -> None:
    found = tables(report())
    assert all(isinstance(cell, str) for table in found for row in table.rows for cell in row)
    assert all(len(row) == len(table.header) for table in found for row in table.rows)
    assert found[1].title == "Minus plain; p corrected for 2 comparisons"
    text = markdown(report(), ["frontier.png"])
    assert "corrected by Holm's method for 2 comparisons" in text
    assert "99 swaps of images" in text
    assert "| method: control | control of method |" in text
    assert "| +1 on the first word |" in text


def test_the_picture_is_written_twice_and_the_same_each_time(tmp_path: Path) -> None:
    paths = write_report(tmp_path / "a", report())
    assert [path.name for path in paths] == ["report.json", "report.md", "report.tex", "frontier.png", "frontier.svg"]
    json.loads(paths[0].read_text("utf-8"))
    write_report(tmp_path / "b", report())
    for path in paths:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert "CHAIR_I, distinct objects" in paths[4].read_text("utf-8")


def test_a_metric_without_recall_has_a_table_and_no_picture(tmp_path: Path) -> None:
    metric = replace(find_metric("mcq-pope"), ratios={"accuracy": SHARE}, labels={}, over_splits=None, summary=())
    base, other = ([Score(str(n), str(n), {"bad": n % by, "all": 1}) for n in range(4)] for by in (1, 2))
    found = frontier_report(
        Field(metric, Entry("base", base), [Entry("other", other)], seed=0, resamples=20, swaps=9),
        settings={},
        failures={},
    )
    assert found["undominated"] == []
    assert found["tests"]["figures"] == ["accuracy"]
    assert found["rows"][0]["difference"]["accuracy"]["estimate"] == 0.5


def test_questions_are_tested_on_their_accuracy_and_shown_with_their_recall() -> None:
    base, other = answers(["yes", "no", "no"]), answers(["yes", "yes", "yes"])
    found = frontier_report(
        Field(POPE, Entry("base", base), [Entry("other", other)], seed=0, resamples=20, swaps=9),
        settings={},
        failures={},
    )
    assert found["tests"]["figures"] == ["accuracy", "false_yes_rate", "recall"]
    assert "recall" in tables(found)[0].header
    assert found["rows"][0]["difference"]["accuracy"]["estimate"] == pytest.approx(2 / 3)
    assert found["line"] is None
