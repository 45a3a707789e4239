"""MME: the official program's figures, by hand and to the last digit on published answers."""

import json
from pathlib import Path

import pytest
from vlm_evals.errors import AnswerMismatch, EvaluationError, FileFormatError, TaskError
from vlm_evals.judge import judge
from vlm_evals.metrics.mme import MME, read_answer, read_saved
from vlm_evals.reports.pairs import compare

EXISTENCE = [
    ("1.jpg", "Is there a dog?", "Yes", "yes, there is"),
    ("1.jpg", "Is there a cat?", "No", "yes"),
    ("2.jpg", "Is there a car?", "Yes", "Yes."),
    ("2.jpg", "Is there a bus?", "No", "There is none"),
]
COUNT = [("1.jpg", "Are there two?", "Yes", "yes"), ("1.jpg", "Are there three?", "No", "no")]


def written(folder: Path, **texts: list[tuple[str, str, str, str]]) -> Path:
    """Return a folder with a text a category, as MME's program reads them."""
    folder.mkdir(exist_ok=True)
    for name, rows in texts.items():
        (folder / f"{name}.txt").write_text("\n".join(map("\t".join, rows)) + "\n", "utf-8")
    return folder


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("YES", "yes"),
        ("no", "no"),
        ("Yes, it is", "yes"),
        ("nope", "no"),
        ("Not at all", "no"),
        (" yes", "yes"),  # within the first four characters
        ("  yes", "unparsed"),  # the official program does not strip
        ("It is no dog", "unparsed"),
        ("", "unparsed"),
        ("eyes", "yes"),  # a quirk to keep
        ("snow", "no"),
    ],
)
def test_an_answer_is_read_by_its_first_four_characters(answer: str, reading: str) -> None:
    assert read_answer(answer) == reading


def test_a_worked_example(tmp_path: Path) -> None:
    # existence: right yes, wrong yes | right yes, "ther" is neither: 2 of 4 right, 0 of 2 images -> 50 + 0
    # count: both right -> 100 + 100; together 250; the other twelve categories are not there
    found = judge("mme", [written(tmp_path / "texts", existence=EXISTENCE, count=COUNT)])
    assert {name: part["score"] for name, part in found["splits"].items()} == {"existence": 50, "count": 200}
    assert (found["score"], found["accuracy"], found["accuracy_plus"]) == (250, 4 / 6, 1 / 3)
    assert (found["yes_ratio"], found["unparsed"]) == (4 / 6, 1 / 6)
    assert found["perception"] is None
    assert found["undefined"]["hallucination"] == "there is no answer in position, color"


def test_every_answer_keeps_its_evidence(tmp_path: Path) -> None:
    read_saved([written(tmp_path / "texts", existence=EXISTENCE)], per_question=tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert rows[1] == {
        "category": "existence",
        "question_id": "existence/1.jpg/2",
        "question": "Is there a cat?",
        "label": "no",
        "reading": "yes",
        "answer": "yes",
    }


def test_answers_in_llavas_layout_take_the_labels_of_the_texts(tmp_path: Path) -> None:
    texts = written(tmp_path / "texts", existence=[(*row[:2], row[2], "") for row in EXISTENCE])
    rows = [
        {
            "question_id": f"existence/images/{image}",
            "prompt": f"{question}\nAnswer the question using a single word or phrase.",
            "text": answer,
        }
        for image, question, _, answer in reversed(EXISTENCE)
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert judge("mme", [path], questions=[texts])["splits"]["existence"]["score"] == 50
    path.write_text("\n".join(map(json.dumps, rows[1:])), "utf-8")
    with pytest.raises(AnswerMismatch, match=r"question existence/2\.jpg/2 has no answer"):
        judge("mme", [path], questions=[texts])
    path.write_text("\n".join(map(json.dumps, [*rows, rows[0]])), "utf-8")
    with pytest.raises(AnswerMismatch, match="answered twice, in lines 1 and 5"):
        judge("mme", [path], questions=[texts])
    path.write_text(json.dumps(rows[0] | {"prompt": "What is this?"}), "utf-8")
    with pytest.raises(AnswerMismatch, match=r"line 1: no question of MME about existence/images/2\.jpg is 'What is"):
        judge("mme", [path], questions=[texts])


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("existence", "1.jpg\tDog?\tYes\tyes\n2.jpg\tCat?\tNo\tno\n", "two questions in a row about an image"),
        ("existence", "1.jpg\tDog?\tYes\tyes\n", r"1\.jpg has not two \(question 1\)"),
        ("existence", "1.jpg\tDog?\tyes\n1.jpg\tCat?\tno\n", "holds questions without answers"),
        ("existence", "1.jpg Dog? Yes yes\n", "line 1: has 1 columns"),
        ("existence", "1.jpg\tDog?\tMaybe\tyes\n", "line 1: the right answer is 'Maybe'"),
        ("dogs", "1.jpg\tDog?\tYes\tyes\n", "is named for no category of MME"),
    ],
)
def test_a_wrong_text_is_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / f"{name}.txt").write_text(text, "utf-8")
    with pytest.raises(FileFormatError, match=complaint):
        judge("mme", [tmp_path / f"{name}.txt"])


def test_other_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="there is no such file"):
        judge("mme", [tmp_path / "existence.txt"])
    (tmp_path / "answers.jsonl").write_text("{}", "utf-8")
    with pytest.raises(FileFormatError, match="give MME's texts, or its release, by --questions"):
        judge("mme", [tmp_path / "answers.jsonl"])
    texts = written(tmp_path / "texts", existence=EXISTENCE)
    with pytest.raises(EvaluationError, match="the category existence is given twice"):
        judge("mme", [texts, texts / "existence.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match="holds no text of an MME category"):
        judge("mme", [tmp_path / "empty"])
    with pytest.raises(TaskError, match="holds no category of MME"):
        judge("mme", [texts / "existence.txt"], questions=[tmp_path / "empty"])


def test_images_are_the_units_of_a_comparison(tmp_path: Path) -> None:
    # mended: image 1 gets both right; image 2 stays as it was; 1 image of 2, so p = 1 and score + 25 + 50
    mended = [row if row[1] != "Is there a cat?" else (*row[:3], "no") for row in EXISTENCE]
    before = read_saved([written(tmp_path / "before", existence=EXISTENCE)]).scores
    after = read_saved([written(tmp_path / "after", existence=mended)]).scores
    found = compare(MME, before, {"mitigated": after}, resamples=50).pair()
    assert (found["n"], found["questions"]) == (2, 4)
    assert found["difference"]["score"]["estimate"] == 75
    assert found["mcnemar"]["accuracy_plus"] == {"only_plain": 0, "only_mitigated": 1, "p": 1}


@pytest.mark.shared
def test_the_published_figures_come_out(shared_data: Path) -> None:
    folder = shared_data / "mme"
    lavin = judge("mme", [folder / "lavin"])
    assert (lavin["perception"], lavin["cognition"]) == (963.6114445778312, 249.64285714285714)
    splits = {name: round(lavin["splits"][name]["score"], 2) for name in ("existence", "count", "position", "color")}
    assert splits == {"existence": 185, "count": 88.33, "position": 63.33, "color": 75}
    assert lavin["hallucination"] == pytest.approx(411.667, abs=1e-3)
    assert lavin["counts"]["questions"] == 2374
    llava = judge("mme", [folder / "llava-v1.5-13b.jsonl"], questions=[folder / "lavin"])
    assert (round(llava["perception"], 2), round(llava["cognition"], 2)) == (1531.32, 295.36)
