"""POPE's answers under other labels: RePOPE's figures to the digit, and what a label file may and may not be."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.data.formats import Question
from vlm_evals.data.other_labels import read_labels
from vlm_evals.errors import AnswerMismatch, EvaluationError, FileFormatError, TaskError
from vlm_evals.judge import judge
from vlm_evals.metrics.pope import POPE, QuestionScore
from vlm_evals.records import write_rows
from vlm_evals.report import paired_report, single_report
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.pairs import compare
from vlm_evals.reports.tables import headline
from vlm_evals.yes_no.relabelled import CHANGES, relabelled

SPLITS = ("random", "popular", "adversarial")
GREEDY = {  # split -> labels -> true yes, false yes, true no, false no, and accuracy, precision, recall, F1, yes ratio
    "random": {
        "pope": ((1150, 40, 1460, 350), (87.00, 96.64, 76.67, 85.50, 39.67)),
        "repope": ((998, 63, 1552, 161), (91.93, 94.06, 86.11, 89.91, 38.25)),
    },
    "popular": {
        "pope": ((1150, 73, 1427, 350), (85.90, 94.03, 76.67, 84.47, 40.77)),
        "repope": ((1004, 77, 1457, 189), (90.25, 92.88, 84.16, 88.30, 39.64)),
    },
    "adversarial": {
        "pope": ((1148, 148, 1352, 352), (83.33, 88.58, 76.53, 82.12, 43.20)),
        "repope": ((1009, 129, 1368, 178), (88.56, 88.66, 85.00, 86.80, 42.40)),
    },
}
MOVED = {  # yes to no, yes removed, no to yes, no removed
    "random": (139, 207, 5, 19),
    "popular": (139, 207, 39, 66),
    "adversarial": (139, 207, 33, 109),
}


def published(shared_data: Path, edition: str = "original") -> dict[str, Any]:
    return {
        "questions": [shared_data / f"pope/questions/{edition}/coco_pope_{split}.jsonl" for split in SPLITS],
        "labels": "repope",
        "labels_from": shared_data / "repope",
    }


@pytest.mark.shared
@pytest.mark.parametrize("edition", ["original", "vcd"])
def test_the_greedy_rows_come_out_to_the_digit_with_both_labels(shared_data: Path, edition: str) -> None:
    answers = [shared_data / f"pope/answers/llava-7b-coco-{split}-greedy.jsonl" for split in SPLITS]
    found = judge("pope", answers, **published(shared_data, edition))
    other = found["labels"]["repope"]
    for split, rows in GREEDY.items():
        for labels, part in (("pope", found["splits"][split]), ("repope", other["splits"][split])):
            counts, figures = rows[labels]
            named = ("true_yes", "false_yes", "true_no", "false_no")
            assert tuple(part["counts"][name] for name in named) == counts
            named = ("accuracy", "precision", "recall", "f1", "yes_ratio")
            assert tuple(round(100 * part[name], 2) for name in named) == figures
        moved = other["label_transition"][split]
        assert tuple(moved[name] for name in ("yes_to_no", "yes_removed", "no_to_yes", "no_removed")) == MOVED[split]
        assert sum(moved[name] for name in CHANGES) == 3000
    assert other["n"] == 2774 + 2727 + 2684
    assert other["accuracy"] == pytest.approx(sum(part["accuracy"] for part in other["splits"].values()) / 3)
    assert "226 of 3000 random, 273 of 3000 popular, 316 of 3000 adversarial" in found["notes"][0]
    assert {row["name"]: row["questions"] for row in found["files"]["labels"]} == {
        "coco_repope_adversarial.json": 2684,
        "coco_repope_popular.json": 2727,
        "coco_repope_random.json": 2774,
    }
    assert {row["name"]: row["sha256"] for row in found["files"]["labels"]}.items() <= found["hashes"].items()


@pytest.mark.shared
def test_answers_in_one_file_for_all_splits(shared_data: Path) -> None:
    folder = shared_data / "pope/answers"
    chosen = published(shared_data)
    chosen["questions"].append(folder / "llava_pope_test.jsonl")
    found = judge("pope", [folder / "llava-layout-13b.jsonl"], **chosen)["labels"]["repope"]
    moved = found["label_transition"]
    assert {split: sum(moved[split][name] for name in CHANGES) for split in moved} == {
        "adversarial": 3000,
        "random": 2910,  # of this edition
        "popular": 3000,
    }
    assert found["splits"]["popular"]["counts"]["questions"] == 2727


@pytest.mark.shared
def test_without_popes_questions_the_corrected_labels_stand_alone(shared_data: Path) -> None:
    answers = [shared_data / f"pope/answers/llava-7b-coco-{split}-greedy.jsonl" for split in SPLITS]
    found = judge("pope", answers, labels="repope", labels_from=shared_data / "repope")
    assert list(found["splits"]) == list(SPLITS)  # in the order of the answers
    assert round(100 * found["splits"]["random"]["accuracy"], 2) == 91.93
    assert "labels" not in found
    assert found["notes"][0].startswith("scored with the labels of repope alone")
    one = judge("pope", answers[:1], labels="repope", labels_from=shared_data / "repope")
    assert one["splits"]["random"] == found["splits"]["random"]


def row(number: int, label: str, **changes: Any) -> dict[str, Any]:
    text = f"Is there a thing {number} in the image?"
    return {"question_id": number, "image": f"{number // 3}.jpg", "text": text, "label": label} | changes


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """Six questions, yes and no alternating, all answered with yes; the labels of others beside them."""
    write_rows(tmp_path / "coco_pope_random.json", [row(n, "yes" if n % 2 else "no") for n in range(6)])
    write_rows(tmp_path / "said.jsonl", [{"question_id": n, "answer": "Yes"} for n in range(6)])
    (tmp_path / "labels").mkdir()
    return {
        "answers": [tmp_path / "said.jsonl"],
        "questions": [tmp_path / "coco_pope_random.json"],
        "labels": "repope",
        "labels_from": tmp_path / "labels",
    }


def corrected(asked: dict[str, Any], rows: list[dict[str, Any]], name: str = "coco_repope_random.json") -> dict:
    write_rows(asked["labels_from"] / name, rows)
    return judge("pope", **asked)


def test_a_worked_example(asked: dict[str, Any]) -> None:
    # labels 0..5: no yes no yes no yes, all said yes: 3 right. Corrected: 0 is yes, 1 is no, 2 is removed, rest as they
    # were: right are 0, 3 and 5 of five. 0 was wrong and is right, 1 was right and is wrong.
    found = corrected(asked, [row(5, "yes"), row(0, "yes"), row(1, "no"), row(3, "yes"), row(4, "no")])
    assert found["accuracy"] == 3 / 6
    other = found["labels"]["repope"]
    assert other["accuracy"] == 3 / 5
    assert other["label_transition"]["random"] == {
        "yes_to_yes": 2,
        "yes_to_no": 1,
        "yes_removed": 0,
        "no_to_no": 1,
        "no_to_yes": 1,
        "no_removed": 1,
        "right_to_wrong": 1,
        "wrong_to_right": 1,
    }
    assert found["notes"] == ["repope removes ambiguous questions: 1 of 6 random; its figures are of the others"]


def test_answers_that_repopes_program_drops_count_nowhere(asked: dict[str, Any]) -> None:
    # labels no yes no yes no yes; the first two answers say neither: of 2..5, all yes, 3 and 5 are right
    texts = ["A dog", "Maybe", "Yes", "I say yes", "yes", "YES"]
    write_rows(asked["answers"][0], [{"question_id": n, "answer": text} for n, text in enumerate(texts)])
    found = corrected(asked | {"parser": "repope"}, [row(n, "yes") for n in range(6)])
    assert (found["accuracy"], found["precision"], found["recall"], found["yes_ratio"]) == (2 / 4, 2 / 4, 1.0, 1.0)
    assert found["splits"]["random"]["counts"]["questions"] == 4
    assert found["splits"]["random"]["counts"]["neither"] == 2
    assert found["labels"]["repope"]["accuracy"] == 1.0


def test_answers_to_what_is_kept_alone(asked: dict[str, Any]) -> None:
    write_rows(asked["answers"][0], [{"question_id": n, "answer": "Yes"} for n in range(5)])
    with pytest.raises(
        AnswerMismatch, match=r"question 5 \(random\) has no answer; where only the questions that repope"
    ):
        corrected(asked, [row(n, "yes") for n in range(5)])
    assert judge("pope", **asked | {"questions": None})["accuracy"] == 1.0


def test_the_other_label_stands_beside_each_question(asked: dict[str, Any], tmp_path: Path) -> None:
    corrected(asked | {"per_question": tmp_path / "each.jsonl"}, [row(0, "yes"), row(3, "no")])
    rows = [json.loads(line) for line in (tmp_path / "each.jsonl").read_text().splitlines()]
    assert [one["labels"] for one in rows] == [{"repope": one} for one in ("yes", None, None, "no", None, None)]


def test_labels_equal_to_popes_give_popes_figures(asked: dict[str, Any]) -> None:
    found = corrected(asked, [row(n, "yes" if n % 2 else "no") for n in reversed(range(6))])
    other = found["labels"]["repope"]
    assert all(other[name] == found[name] for name in (*POPE.ratios, "splits"))
    assert other["label_transition"]["random"] == dict.fromkeys(other["label_transition"]["random"], 0) | {
        "yes_to_yes": 3,
        "no_to_no": 3,
    }


def test_label_files_as_people_have_them(asked: dict[str, Any]) -> None:
    rows = [row(n, "yes") for n in range(5)]
    found = corrected(asked, rows)
    assert found["labels"]["repope"]["accuracy"] == 1.0
    mended = [one | {"text": one["text"].replace("image", "imange").upper()} for one in rows]
    assert corrected(asked, mended)["labels"] == found["labels"]  # the typing error of POPE's first edition
    renumbered = [one | {"question_id": 100 + one["question_id"], "image": f"val2014/{one['image']}"} for one in rows]
    assert corrected(asked, renumbered)["labels"] == found["labels"]  # found by image and text, whatever the id
    named = [{"question_id": one["question_id"], "label": one["label"]} for one in rows]
    assert corrected(asked, named)["labels"] == found["labels"]  # ids and labels alone
    more = [*rows, row(20, "no")]
    assert corrected(asked, more)["labels"] == found["labels"]  # fewer questions than labels
    (asked["labels_from"] / "annotations").mkdir()
    path = asked["labels_from"] / "coco_repope_random.json"
    path.rename(asked["labels_from"] / "annotations" / "random-RePOPE.json")
    assert judge("pope", **asked)["labels"] == found["labels"]


@pytest.mark.parametrize(
    ("rows", "name", "complaint"),
    [
        ([row(9, "yes")], "repope_random.json", r"6 questions are about images that repope does not label, the first"),
        ([row(n, "no", text="?") for n in range(6)], "repope_random.json", r"a label for none of the questions of the"),
        ([row(1, "yes")], "repope_popular.json", r"of the split 'random', and repope labels popular: name the files"),
        ([row(1, "yes"), row(1, "no", question_id=7)], "repope_random.json", "question 7 has two labels, yes and no"),
        ([row(1, "maybe")], "repope_random.json", r"line 1: the label is 'maybe'; it must be yes or no"),
        ([{"question_id": 1, "label": 3}], "repope_random.json", r"line 1: a label needs `question_id`, and `label`"),
        ([], "repope_random.json", "holds no label"),
        ([row(1, "yes")], "pope_random.json", r"holds no file such as coco_repope_random\.json; RePOPE's are in the"),
    ],
)
def test_what_is_no_label_of_these_questions_is_named(
    asked: dict[str, Any], rows: list[dict[str, Any]], name: str, complaint: str
) -> None:
    with pytest.raises(EvaluationError, match=complaint):
        corrected(asked, rows, name)


def test_half_of_what_is_needed_is_named(asked: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="--labels repope: say where its files are, with --labels-from"):
        judge("pope", **asked | {"labels_from": None})
    with pytest.raises(TaskError, match="say whose labels they are, as --labels repope"):
        judge("pope", **asked | {"labels": None})
    with pytest.raises(EvaluationError, match="unknown labels 'mine'; choose one of repope"):
        judge("pope", **asked | {"labels": "mine"})
    with pytest.raises(FileFormatError, match="there is no such folder"):
        judge("pope", **asked | {"labels_from": asked["labels_from"] / "away"})
    with pytest.raises(TaskError, match="say what was asked, with --questions"):
        judge("pope", asked["answers"])


def test_labels_of_other_questions_are_not_taken(tmp_path: Path) -> None:
    write_rows(tmp_path / "repope_random.json", [row(n, "yes") for n in range(3)])
    labels = read_labels("repope", tmp_path / "repope_random.json")
    ask = Question("0", "0.jpg", "Is there a thing 0 in the image?", "yes", "random")
    assert labels.of([ask]) == ["yes"]
    with pytest.raises(AnswerMismatch):
        labels.of([ask, Question("0", "0.jpg", ask.text, "yes", "hard")])


LABELS = st.sampled_from(["yes", "no", None])


@given(st.lists(st.tuples(st.sampled_from(SPLITS), st.sampled_from(["yes", "no"]), LABELS), min_size=1, max_size=30))
def test_every_question_is_in_the_transition_once(given_labels: list[tuple[str, Any, Any]]) -> None:
    scores = [
        QuestionScore(
            Question(str(n), f"{n}.jpg", "?", label, split),
            "Yes",
            "yes",
            {"repope": other and {"label": other, "reading": "yes"}},
        ).as_score()
        for n, (split, label, other) in enumerate(given_labels)
    ]
    found = relabelled(scores)["repope"]
    asked_of = {split: sum(one.split == split for one in scores) for split in found.transition}
    assert {split: sum(one[name] for name in CHANGES) for split, one in found.transition.items()} == asked_of
    assert len(found.scores) == sum(other is not None for _, _, other in given_labels)


def test_reports_have_both_labels() -> None:
    def scores(said: str) -> list[Any]:
        return [
            QuestionScore(
                Question(str(n), f"{n}.jpg", "?", label, "random"),
                said,
                said,  # type: ignore[arg-type]
                {"repope": {"label": "yes", "reading": said} if n else None},
            ).as_score()
            for n, label in enumerate(["yes", "no", "no", "no", "no", "no", "no"])
        ]

    single = single_report(POPE, scores("yes"), settings={})
    assert (single["accuracy"], single["labels"]["repope"]["accuracy"]) == (1 / 7, 1.0)
    assert single["labels"]["repope"]["intervals"]["accuracy"] == [1.0, 1.0]
    text = markdown(single)
    assert "| accuracy | 14.29 | 100.00 | 14.29 | 100.00 |" in text
    assert "| random | 0 | 0 | 1 | 0 | 6 | 0 | 0 | 6 |" in text
    paired = paired_report([compare(POPE, scores("yes"), {"mitigated": scores("no")})], settings={})
    assert headline(paired) == "POPE: fewer hallucinations, recall lost; with the labels of repope: worse"
    assert paired["labels"]["repope"]["difference"]["accuracy"]["estimate"] == -1.0
    assert "## POPE, mean over splits, labels of repope" in markdown(paired)
