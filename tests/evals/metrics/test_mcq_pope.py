"""MCQ-POPE: four choices by hand, and the published questions."""

import json
from pathlib import Path
from typing import Any

import pytest
from vlm_evals.errors import AnswerMismatch, FileFormatError
from vlm_evals.judge import judge
from vlm_evals.metrics.mcq_pope import MCQ_POPE, read_saved
from vlm_evals.reports.pairs import compare

CHOICES = "\nA. dog\nB. cat\nC. car\nD. bus\n"


def question(number: int, label: str, *, absent: bool = False, image: str = "1.jpg") -> dict[str, Any]:
    text = f"Which of the following {'does not appear' if absent else 'appears'} in the image?{CHOICES}"
    return {"question_id": number, "image": image, "text": text, "label": label}


ASKED = [
    question(0, "A"),
    question(1, "B", absent=True),
    question(2, "C", image="2.jpg"),
    question(3, "D", image="2.jpg"),
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def said(path: Path, *texts: str) -> Path:
    return written(path, [{"question_id": n, "pope_split": "x", "response": text} for n, text in enumerate(texts)])


def test_a_worked_example(tmp_path: Path) -> None:
    # A right, "Cat" right, "a dog" (A) wrong, neither: 2 of 4; 1 of 3 of what appears, 1 of 1 of what does not
    asked = written(tmp_path / "coco_mcq_random.jsonl", ASKED)
    given = said(tmp_path / "answers.jsonl", "A", "Cat.", "a dog", "Nothing")
    found = judge("mcq-pope", [given], questions=[asked], per_question=tmp_path / "out.jsonl")
    assert (found["accuracy"], found["present_accuracy"], found["absent_accuracy"]) == (2 / 4, 1 / 3, 1)
    assert (found["first_ratio"], found["unparsed"], found["reader"]) == (2 / 4, 1 / 4, "strict")
    row = json.loads((tmp_path / "out.jsonl").read_text("utf-8").splitlines()[1])
    assert (row["question_id"], row["reading"], row["chosen"]) == ("random/1", "B", "cat")
    # the first character: A right, C wrong, A wrong, N no choice
    found = judge("mcq-pope", [given], questions=[asked], reader="allpath")
    assert (found["accuracy"], found["unparsed"]) == (1 / 4, 1 / 4)


def test_splits_are_averaged_and_stand_in_order(tmp_path: Path) -> None:
    asked = [written(tmp_path / f"coco_mcq_{split}.jsonl", ASKED) for split in ("random", "popular")]
    given = [said(tmp_path / "random.jsonl", *"ABCD"), said(tmp_path / "popular.jsonl", *"ABAA")]
    found = judge("mcq-pope", given, questions=asked)
    assert (found["splits"]["popular"]["accuracy"], found["accuracy"]) == (2 / 4, 3 / 4)
    with pytest.raises(AnswerMismatch, match=r"popular\.jsonl stands where answers to coco_mcq_random\.jsonl are due"):
        judge("mcq-pope", given[::-1], questions=asked)
    with pytest.raises(AnswerMismatch, match="1 files of answers for 2 files of questions"):
        judge("mcq-pope", given[:1], questions=asked)
    with pytest.raises(AnswerMismatch, match="are given twice"):
        judge("mcq-pope", given, questions=[asked[0], asked[0]])


def test_images_are_the_units_of_a_comparison(tmp_path: Path) -> None:
    asked = written(tmp_path / "coco_mcq_random.jsonl", ASKED)
    before = read_saved([said(tmp_path / "a.jsonl", *"AAAA")], [asked]).scores
    after = read_saved([said(tmp_path / "b.jsonl", *"ABCA")], [asked]).scores
    found = compare(MCQ_POPE, before, {"mitigated": after}, resamples=50).pair()
    assert (found["n"], found["questions"]) == (2, 4)
    assert found["difference"]["accuracy"]["estimate"] == 1 / 2
    assert found["mcnemar"]["accuracy"] == {"only_plain": 0, "only_mitigated": 2, "p": 0.5}


def test_mistakes_are_named(tmp_path: Path) -> None:
    asked = written(tmp_path / "coco_mcq_random.jsonl", ASKED)
    with pytest.raises(FileFormatError, match="is a question with its label; give the file of what the model said"):
        judge("mcq-pope", [asked], questions=[asked])
    with pytest.raises(AnswerMismatch, match="question random/3 has no answer"):
        judge("mcq-pope", [said(tmp_path / "a.jsonl", *"ABC")], questions=[asked])
    with pytest.raises(AnswerMismatch, match=r"line 1: the answer names no question id"):
        judge("mcq-pope", [written(tmp_path / "a.jsonl", [{"response": "A"}])], questions=[asked])
    other = [{"question_id": n, "question": "Is there a dog?", "answer": "yes"} for n in range(4)]
    with pytest.raises(AnswerMismatch, match=r"line 1: answers 'Is there a dog\?' where question random/0 is 'Which"):
        judge("mcq-pope", [written(tmp_path / "a.jsonl", other)], questions=[asked])
    wrong = written(
        tmp_path / "pope_random.jsonl", [ASKED[0] | {"text": "Is there a dog in the image?", "label": "yes"}]
    )
    with pytest.raises(FileFormatError, match="line 1: a question needs question_id, image, text with choices A to D"):
        judge("mcq-pope", [said(tmp_path / "a.jsonl", "A")], questions=[wrong])


@pytest.mark.shared
@pytest.mark.parametrize("reader", ["strict", "allpath"])
def test_the_published_questions(shared_data: Path, tmp_path: Path, reader: str) -> None:
    files = [shared_data / f"pope/mcq/coco_mcq_{split}.jsonl" for split in ("random", "popular", "adversarial")]
    given, right = [], []
    for path in files:
        labels = [json.loads(line)["label"] for line in path.read_text("utf-8").splitlines()]
        texts = [label if number % 3 else "A" for number, label in enumerate(labels)]
        given.append(said(tmp_path / path.name.replace("coco", "said"), *texts))
        right.append(sum(text == label for text, label in zip(texts, labels, strict=True)) / len(labels))
    found = judge("mcq-pope", given, questions=files, reader=reader)
    assert found["questions"] == 9000
    assert [part["accuracy"] for part in found["splits"].values()] == right
    assert found["accuracy"] == pytest.approx(sum(right) / 3, abs=1e-15)
    counts = found["splits"]["random"]["counts"]
    assert (counts["present"], counts["absent"], counts["neither"]) == (1500, 1500, 0)
