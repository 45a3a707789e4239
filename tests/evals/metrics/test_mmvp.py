"""MMVP: pairs by hand, the four mended labels, and both ways to find a letter."""

import json
from pathlib import Path

import pytest
from vlm_evals.errors import AnswerMismatch, FileFormatError
from vlm_evals.judge import judge
from vlm_evals.metrics.mmvp import MMVP, read_saved
from vlm_evals.reports.pairs import compare

HEADER = "Index,Question,Options,Correct Answer"
ASKED = [
    '1,Are the wings open or closed?,(a) Open (b) Closed,(a)',
    '2,Are the wings open or closed?,(a) Open (b) Closed,(b)',
    '3,"Is it red, or blue?",(a) Red (b) Dark blue (navy),(a)',
    '4,"Is it red, or blue?",(a) Red (b) Dark blue (navy),(b)',
]  # fmt: skip


def questions(root: Path, *lines: str) -> Path:
    path = root / "Questions.csv"
    path.write_text("\n".join([HEADER, *(lines or ASKED)]), "utf-8")
    return path


def answers(path: Path, *texts: str) -> Path:
    rows = [{"question_id": n, "answer": "(a)", "response": text} for n, text in enumerate(texts, start=1)]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def test_a_worked_example(tmp_path: Path) -> None:
    # (a) right, closed right -> the pair is right; (a) right, "red" wrong -> it is not: 3 of 4, 1 of 2; 3 answers (a)
    asked = questions(tmp_path)
    given = answers(tmp_path / "answers.jsonl", "(a)", "Closed.", "The answer is (a)", "Red")
    found = judge("mmvp", given, questions=asked, per_question=tmp_path / "out.jsonl")
    assert (found["accuracy"], found["pairs_right"], found["first_ratio"]) == (3 / 4, 1 / 2, 3 / 4)
    assert (found["reader"], found["labels"], found["unparsed"]) == ("strict", "published", 0)
    row = json.loads((tmp_path / "out.jsonl").read_text("utf-8").splitlines()[1])
    assert (row["pair"], row["label"], row["reading"]) == ("pair 1", "B", "B")
    # lmms-eval finds no letter in "Closed." and none in "Red"
    assert judge("mmvp", given, questions=asked, reader="lmms-eval")["accuracy"] == 2 / 4


def test_four_labels_are_mended_where_that_is_asked_for(tmp_path: Path) -> None:
    asked = questions(
        tmp_path,
        "99,Tusks?,(a) Long (b) Short,(a)",
        "100,Tusks?,(a) Long (b) Short,(b)",
        "101,Standing?,(a) Yes (b) No,(a)",
        "102,Standing?,(a) Yes (b) No,(b)",
    )
    rows = [{"question_id": n, "response": text} for n, text in ((99, "b"), (100, "a"), (101, "a"), (102, "b"))]
    (tmp_path / "answers.json").write_text(json.dumps(rows), "utf-8")
    assert judge("mmvp", tmp_path / "answers.json", questions=asked)["pairs_right"] == 1 / 2
    assert judge("mmvp", tmp_path / "answers.json", questions=asked, labels="mended")["pairs_right"] == 1


def test_an_lmms_eval_log_is_read(tmp_path: Path) -> None:
    log = [{"doc": {"Index": n}, "filtered_resps": ["A"]} for n in range(1, 5)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, log)), "utf-8")
    assert judge("mmvp", tmp_path / "log.jsonl", questions=questions(tmp_path))["accuracy"] == 2 / 4


def test_pairs_are_the_units_of_a_comparison(tmp_path: Path) -> None:
    asked = questions(tmp_path)
    before = read_saved(answers(tmp_path / "a.jsonl", "a", "b", "a", "a"), asked).scores
    after = read_saved(answers(tmp_path / "b.jsonl", "a", "b", "a", "b"), asked).scores
    found = compare(MMVP, before, {"mitigated": after}, resamples=50).pair()
    assert (found["n"], found["questions"]) == (2, 4)
    assert found["difference"]["pairs_right"]["estimate"] == 1 / 2
    assert found["mcnemar"]["pairs_right"] == {"only_plain": 0, "only_mitigated": 1, "p": 1}


def test_mistakes_are_named(tmp_path: Path) -> None:
    asked = questions(tmp_path)
    with pytest.raises(AnswerMismatch, match="question 3 and 1 more has no answer"):
        judge("mmvp", answers(tmp_path / "answers.jsonl", "a", "b"), questions=asked)
    with pytest.raises(FileFormatError, match="line 2: an answer needs `question_id` and `response`"):
        judge("mmvp", asked, questions=asked)
    with pytest.raises(FileFormatError, match="question 3 has no partner"):
        judge("mmvp", answers(tmp_path / "answers.jsonl", "a"), questions=questions(tmp_path, *ASKED[:3]))
    wrong = questions(tmp_path, "1,What?,(a) Red,(a)")
    with pytest.raises(FileFormatError, match="line 2: a question needs Index, Question, Options"):
        judge("mmvp", answers(tmp_path / "answers.jsonl", "a"), questions=wrong)
