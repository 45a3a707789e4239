"""Controls for yes-or-no questions: laws of the output control and of the transition table, and worked examples."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.data.formats import Question
from vlm_evals.errors import EvaluationError
from vlm_evals.first_token import Margins
from vlm_evals.metrics.pope import POPE, QuestionScore
from vlm_evals.records import Answer, Score
from vlm_evals.report import paired_report
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.pairs import compare
from vlm_evals.reports.tables import headline, tables
from vlm_evals.yes_no.controls import FIXED, OUTPUT, fixed_control, output_control, output_controls
from vlm_evals.yes_no.turned import TURNS, transition

Asked = tuple[str, str, str, float]  # split, label, reading, margin


def scored(asked: list[Asked]) -> list[Score]:
    return [
        QuestionScore(
            Question(str(n), f"{n // 6}.jpg", "?", label, split),  # type: ignore[arg-type]
            reading,
            reading,  # type: ignore[arg-type]
            margin=margin,
        ).as_score()
        for n, (split, label, reading, margin) in enumerate(asked)
    ]


def said(text: str, labels: str = "yn", margins: list[float] | None = None) -> list[Score]:
    names = {"y": "yes", "n": "no", "-": "unparsed"}
    each = margins or [1.0] * len(text)
    return scored([("random", names[labels[n % len(labels)]], names[one], each[n]) for n, one in enumerate(text)])


def readings(scores: list[Score]) -> list[str]:
    return [score.evidence["reading"] for score in scores]


def test_a_worked_example() -> None:
    # margins 3 1 -1 -2 -4 0.5, plain: y y n n n y (3 yes). The method says yes to five: the two largest margins among
    # the noes, -1 and -2, are turned. To one: the two smallest among the yeses, 0.5 and 1, are turned.
    margins = [3.0, 1.0, -1.0, -2.0, -4.0, 0.5]
    plain = said("yynnny", "ynynyn", margins)
    control = output_control(plain, said("yyyyyn"))[OUTPUT]
    assert readings(list(control.scores)) == ["yes", "yes", "yes", "yes", "no", "yes"]
    assert control.said.endswith("by their margin: random 2 to yes, up to a margin of -2.00")
    fewer = output_control(plain, said("ynnnnn"))[OUTPUT]
    assert readings(list(fewer.scores)) == ["yes", "no", "no", "no", "no", "no"]
    assert fewer.said.endswith("random 2 to no, up to a margin of +1.00")
    # labels y n y n y n: of five yes the 1st, the 3rd are right, of the noes none: 2 of 6
    assert POPE.corpus(control.scores)["accuracy"] == 2 / 6


def with_either(scores: list[Score], either: list[float]) -> list[Score]:
    pairs = zip(scores, either, strict=True)
    return [replace(score, evidence={**score.evidence, "either": one}) for score, one in pairs]


def test_the_fixed_rule_says_yes_where_the_model_is_unsure() -> None:
    # p(yes) - p(no) = either · tanh(margin / 2); tanh(1/2) = 0.46, tanh(-1/2) = -0.46, tanh(-3/2) = -0.91
    # 1: 0.9 · 0.46 = 0.42 < 0.5: yes, as it was.    2: 0.9 · -0.46 = -0.42: turned to yes.
    # 3: 0.9 · -0.91 = -0.81: sure, stays no.        4: either 0.1: neither word is likely, stays no.
    # 5: 0.5 · -0.91 = -0.45: turned.                6: either 0.2 is not above 0.2: stays no.
    plain = with_either(
        said("ynnnnn", "ynynyn", [1.0, -1.0, -3.0, -1.0, -3.0, -1.0]), [0.9, 0.9, 0.9, 0.1, 0.5, 0.2]
    )  # fmt: skip
    control = fixed_control(plain)[FIXED]
    assert readings(list(control.scores)) == ["yes", "yes", "no", "no", "yes", "no"]
    assert "turns 2 of 6 plain answers to yes" in control.said
    assert set(output_controls(plain, plain)) == {OUTPUT, FIXED}
    assert set(output_controls(said("yn"), said("yn"))) == {OUTPUT}  # where `either` was not recorded
    assert fixed_control([]) == {}


def test_either_is_the_probability_of_the_two_words() -> None:
    margins = Margins([0, 1], [2])
    margins(torch.zeros(2, 1), torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])) + 5)
    assert margins.either(2) == pytest.approx([0.6, 0.75])
    assert margins.of(2) == pytest.approx([0, math.log(2)], abs=1e-6)
    assert Margins([0], [1]).either(2) == [None, None]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["random", "popular"]),
        st.sampled_from(["yes", "no"]),
        st.sampled_from(["yes", "no", "unparsed"]),
        st.floats(-9, 9),
        st.sampled_from(["yes", "no", "unparsed"]),
    ),
    min_size=1,
    max_size=40,
)


def two_runs(rows: list[Any]) -> tuple[list[Score], list[Score]]:
    return scored([row[:4] for row in rows]), scored([(*row[:2], row[4], 0.0) for row in rows])


@given(ROWS)
def test_the_control_has_the_methods_yes_ratio_in_every_split(rows: list[Any]) -> None:
    plain, method = two_runs(rows)
    found = POPE.corpus(output_control(plain, method)[OUTPUT].scores)
    theirs = POPE.corpus(method)
    assert {split: one["yes_ratio"] for split, one in found["splits"].items()} == {
        split: one["yes_ratio"] for split, one in theirs["splits"].items()
    }


@given(ROWS, st.integers(0, 9))
def test_at_the_plain_yes_ratio_the_control_is_plain(rows: list[Any], seed: int) -> None:
    plain, _ = two_runs(rows)
    assert list(output_control(plain, plain)[OUTPUT].scores) == plain
    shuffled = list(plain)  # the same readings of other questions of the split: the yes ratio alone counts
    for split in {score.split for score in plain}:
        places = [place for place, score in enumerate(plain) if score.split == split]
        for place, other in zip(places, random.Random(seed).sample(places, len(places)), strict=True):
            shuffled[place] = plain[other]
    assert list(output_control(plain, shuffled)[OUTPUT].scores) == plain


@given(ROWS)
def test_turned_answers_are_the_nearest_to_the_threshold(rows: list[Any]) -> None:
    plain, method = two_runs(rows)
    control = output_control(plain, method)[OUTPUT].scores
    for split in {score.split for score in plain}:
        pairs = [(a, b) for a, b in zip(plain, control, strict=True) if a.split == split]
        turned = [a for a, b in pairs if a.evidence["reading"] != b.evidence["reading"]]
        kinds = {a.counts["said_yes"] for a in turned}
        assert len(kinds) <= 1  # never both ways
        kept = [a.evidence["margin"] for a, b in pairs if a == b and a.counts["said_yes"] in kinds]
        margins = [a.evidence["margin"] for a in turned]
        if kept and margins and kinds == {1}:
            assert max(margins) <= min(kept)
        elif kept and margins:
            assert min(margins) >= max(kept)


def test_without_margins_there_is_no_control() -> None:
    plain = [QuestionScore(Question("1", "1.jpg", "?", "yes", "random"), "Yes", "yes").as_score()]
    assert output_control(plain, plain) == {}
    assert output_control([], []) == {}


@given(ROWS)
def test_the_transition_counts_every_question_once(rows: list[Any]) -> None:
    plain, method = two_runs(rows)
    found = transition(plain, method)
    for split, by_label in found.items():
        for label in ("yes", "no"):
            own = [score for score in plain if score.split == split and score.evidence["label"] == label]
            assert sum(by_label[label][name] for name in TURNS) == len(own)
    right = sum(by_label[label]["wrong_to_right"] for by_label in found.values() for label in ("yes", "no"))
    wrong = sum(by_label[label]["right_to_wrong"] for by_label in found.values() for label in ("yes", "no"))
    gained = [sum(score.counts["right"] for score in run) for run in (method, plain)]
    assert right - wrong == gained[0] - gained[1]


def test_a_transition_by_hand() -> None:
    # label yes: y->y, y->n, n->y, n->n, y->-, and label no: n->n, n->y, y->n
    labels, before, after = "yyyyynnn", "yynnynny", "ynyn-nyn"
    found = transition(said(before, labels), said(after, labels))["random"]
    assert found["yes"] == {"right_to_right": 1, "right_to_wrong": 2, "wrong_to_right": 1, "wrong_to_wrong": 1}
    assert found["no"] == {"right_to_right": 1, "right_to_wrong": 1, "wrong_to_right": 1, "wrong_to_wrong": 0}
    assert (found["yes_to_no"], found["no_to_yes"]) == (2, 2)  # TP->FN and FP->TN; FN->TP and TN->FP


def test_the_first_line_says_which_controls_are_beaten() -> None:
    right, wrong = said("yn" * 12), said("ny" * 12)
    half = said("ynny" * 6)

    def first_line(method: list[Score], **controls: list[Score]) -> str:
        return headline(paired_report([compare(POPE, half, {"mitigated": method, **controls})], settings={}))

    assert first_line(right, a=wrong, b=wrong).endswith("; beats every control in accuracy (a, b)")
    assert first_line(wrong, a=right, b=wrong).endswith("; beats no control in accuracy (a, b)")
    assert first_line(right, a=right, b=wrong).endswith("; beats b in accuracy, and not a")
    assert "control" not in first_line(right)
    report = paired_report([compare(POPE, half, {"mitigated": right, "a": wrong})], settings={})
    assert report["beats"] == {"a": True}
    assert report["controls"]["a"]["method_minus_control"]["accuracy"]["estimate"] == 1.0
    assert [table.title for table in tables(report)][:2] == [
        "POPE, mean over splits",
        "POPE, what the plain answers became",
    ]
    assert "| random | label yes | 6 | 0 | 6 | 0 |" in markdown(report)


def test_a_margin_is_kept_where_there_is_one() -> None:
    old = {"sample_id": "a", "text": "Yes", "token_ids": [1], "seconds": 0.5, "receipt": None, "error": None}
    assert Answer.from_row(old).margin is None
    assert Answer.from_row(old).as_row() | {"token_ids": [1]} == old  # as it always was
    answer = Answer("a", "Yes", (1,), margin=-1.5)
    assert Answer.from_row(answer.as_row()) == answer
    for wrong in ("1", True, float("nan"), float("inf"), [1.0]):
        with pytest.raises(EvaluationError, match="`margin` of an answer is a finite number or null"):
            Answer.from_row(old | {"margin": wrong})
