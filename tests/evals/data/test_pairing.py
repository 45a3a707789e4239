"""What belongs together is found in every layout that people have, and what does not is refused by file and line."""

import json
from pathlib import Path
from typing import Any

import pytest
from vlm_evals.data.formats import Caption, GivenAnswer, Question, read_answers, read_captions, read_questions
from vlm_evals.data.labels import read_question_files
from vlm_evals.data.pairing import LLAVA_SPLITS, pair_answers, same_question
from vlm_evals.errors import AnswerMismatch, EvaluationError, FileFormatError, UnknownImage
from vlm_evals.judge import judge
from vlm_evals.metrics.pope import POPE
from vlm_evals.records import write_rows
from vlm_evals.reports.pairs import compare

TAIL = "\nAnswer the question using a single word or phrase."
NAMES = ("dog", "cat", "tie", "bus")


def ask(split: str, number: int) -> str:
    return f"Is there a {NAMES[(number + LLAVA_SPLITS.index(split)) % 4]} in the image?"


def label(number: int) -> str:
    return "yes" if number % 2 else "no"


@pytest.fixture
def pope(tmp_path: Path) -> list[Path]:
    """POPE's three files, four questions each, about two images."""
    paths = [tmp_path / f"coco_pope_{split}.json" for split in LLAVA_SPLITS]
    for path, split in zip(paths, LLAVA_SPLITS, strict=True):
        rows = [
            {"question_id": n, "image": f"{n // 3 + 1}.jpg", "text": ask(split, n), "label": label(n)}
            for n in range(1, 5)
        ]
        write_rows(path, rows)
    return paths


def llava_rows(**more: Any) -> list[dict[str, Any]]:
    return [
        {"question_id": place * 10_000_000 + n, "prompt": ask(split, n) + TAIL, "text": label(n).title(), **more}
        for place, split in enumerate(LLAVA_SPLITS)
        for n in range(1, 5)
    ]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    write_rows(path, rows)
    return path


def test_llavas_one_file_of_answers_goes_with_popes_three_of_questions(tmp_path: Path, pope: list[Path]) -> None:
    found = judge("pope", [written(tmp_path / "llava.jsonl", llava_rows())], questions=pope)
    assert found["accuracy"] == 1.0
    assert {split: one["counts"]["questions"] for split, one in found["splits"].items()} == dict.fromkeys(
        LLAVA_SPLITS, 4
    )


def test_llavas_questions_take_popes_labels(tmp_path: Path, pope: list[Path]) -> None:
    answers = written(tmp_path / "llava.jsonl", llava_rows())
    turned = [
        {"question_id": place * 10_000_000 + 5 - n, "image": f"{n // 3 + 1}.jpg", "category": split}
        | {"text": ask(split, n).replace("image?", "imange?") + TAIL}
        for place, split in enumerate(LLAVA_SPLITS)
        for n in range(1, 4)  # in another order, and one fewer, as LLaVA's random questions are
    ]
    asked = written(tmp_path / "llava_pope_test.jsonl", turned)
    questions = read_question_files([asked, *pope])
    assert list(questions) == [asked]
    assert [question.label for question in questions[asked]] == ["yes", "no", "yes"] * 3
    with pytest.raises(AnswerMismatch, match=r"llava\.jsonl: line 4 answers 'Is there a dog in the image\?"):
        judge("pope", [answers], questions=[asked, *pope], subset=True)
    said = [
        {"question_id": one["question_id"], "prompt": one["text"], "text": question.label.title()}
        for one, question in zip(turned, questions[asked], strict=True)
    ]
    assert judge("pope", [written(answers, said)], questions=[asked, *pope])["accuracy"] == 1.0


def test_questions_without_labels_alone_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "asked.jsonl", [{"question_id": 1, "image": "1.jpg", "text": ask("random", 1)}])
    with pytest.raises(FileFormatError, match=r"asked\.jsonl: holds questions without labels; give the files"):
        judge("pope", [written(tmp_path / "said.jsonl", llava_rows())], questions=[path])


def test_labels_may_stand_in_a_file_of_ids(tmp_path: Path) -> None:
    asked = [{"question_id": n, "image": "1.jpg", "text": ask("random", n)} for n in range(1, 5)]
    path = written(tmp_path / "asked_random.jsonl", asked)
    labels = written(tmp_path / "labels.json", [{"id": n, "label": label(n)} for n in range(1, 5)])
    assert [one.label for one in read_question_files([path, labels])[path]] == ["yes", "no", "yes", "no"]
    written(labels, [{"id": 1, "label": "yes"}])
    with pytest.raises(FileFormatError, match=r"asked_random\.jsonl, line 2: no file of labels holds question 2"):
        read_question_files([path, labels])


def test_pais_answers_and_questions(tmp_path: Path) -> None:
    chat = {"text": [ask("random", n) for n in range(1, 5)], "label": [label(n) for n in range(1, 5)]}
    questions = written(tmp_path / "coco_pope_chat_random.json", [chat | {"chat_id": 0, "image": "1.jpg"}])
    assert [(one.question_id, one.label) for one in read_questions(questions)] == [
        ("1", "yes"),
        ("2", "no"),
        ("3", "yes"),
        ("4", "no"),
    ]
    rows = [
        {"query": ask("random", n), "label": n % 2, "ans": label(n).title(), "question": f"USER: {ask('random', n)} A:"}
        for n in range(1, 5)
    ]
    answers = written(tmp_path / "pope_eval_random.jsonl", rows)
    assert judge("pope", [answers], questions=[questions])["accuracy"] == 1.0
    written(answers, [rows[0], rows[2], rows[1], rows[3]])
    with pytest.raises(
        AnswerMismatch, match=r"pope_eval_random\.jsonl: line 2 answers 'Is there a dog in the image\?'"
    ):
        judge("pope", [answers], questions=[questions])
    listed = {"text": chat["text"], "ans": ["Yes", "No", "Yes", "No"]}
    assert [one.question for one in read_answers(written(answers, [listed]))] == chat["text"]
    with pytest.raises(FileFormatError, match="line 1: has 4 questions and not as many labels"):
        read_questions(written(questions, [chat | {"label": ["yes"], "image": "1.jpg"}]))


def test_a_subset_of_the_questions_is_judged_where_it_is_meant(tmp_path: Path, pope: list[Path]) -> None:
    answers = written(tmp_path / "said.jsonl", [row for row in llava_rows() if row["question_id"] < 5])
    fewer = read_questions(pope[0])[1:3]
    corrected = tmp_path / "coco_repope_adversarial.json"
    write_rows(
        corrected,
        [{"question_id": int(q.question_id), "image": q.image, "text": q.text} | {"label": "no"} for q in fewer],
    )
    with pytest.raises(AnswerMismatch, match=r"is to question 1, which is not asked; there are 2 such .* say --subset"):
        judge("pope", [answers], questions=[corrected])
    found = judge("pope", [answers], questions=[corrected], subset=True)
    assert found["splits"]["adversarial"]["counts"]["questions"] == 2
    assert found["notes"] == ["2 answers are to questions that are not asked here, and are passed over"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"prompt": "Is there a cow in the image?"},
            r"line 1 answers 'Is there a cow .* question 1 \(adversarial\) is",
        ),
        ({"image": "val2014/7.jpg"}, r"line 1 is about the image val2014/7\.jpg where question 1 .* is about 1\.jpg"),
    ],
)
def test_answers_to_something_else_are_refused(
    tmp_path: Path, pope: list[Path], changes: dict[str, str], complaint: str
) -> None:
    rows = [row for row in llava_rows() if row["question_id"] < 5]
    path = written(tmp_path / "said.jsonl", [rows[0] | changes, *rows[1:]])
    with pytest.raises(AnswerMismatch, match=rf"said\.jsonl: {complaint}"):
        judge("pope", [path], questions=pope[:1])


def test_questions_are_no_answers(pope: list[Path]) -> None:
    with pytest.raises(FileFormatError, match="line 1: is a question with its label; give the file of what the model"):
        judge("pope", pope[:1], questions=pope[:1])


def test_files_in_another_order_are_refused(tmp_path: Path, pope: list[Path]) -> None:
    bare = [{"question_id": n, "text": "Yes"} for n in range(1, 5)]
    random, popular = (written(tmp_path / f"answers_{name}.jsonl", bare) for name in ("random", "popular"))
    assert judge("pope", [random, popular], questions=pope[1:])["yes_ratio"] == 1.0
    with pytest.raises(AnswerMismatch, match=r"answers_popular\.jsonl stands where answers to coco_pope_random\.json"):
        judge("pope", [popular, random], questions=pope[1:])
    with pytest.raises(AnswerMismatch, match=r"question 1 \(random\) is asked in .*coco_pope_random\.json too"):
        judge("pope", [random], questions=[pope[1], written(tmp_path / "coco_repope_random.json", _rows(pope[1]))])


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is there a dog in the image?", "<image>\nIs there a  dog in the image? Answer yes or no."),
        ("Is there an apple in the imange?", "USER: is there an apple in the image?\nASSISTANT:"),
    ],
)
def test_the_same_question_in_other_words_around_it(one: str, other: str) -> None:
    assert same_question(one) == same_question(other)
    question = Question("1", "1.jpg", one, "yes", "random")
    assert pair_answers([question], [GivenAnswer("1", "Yes", other)]) == (["Yes"], 0)


def test_runs_about_other_questions_are_not_compared() -> None:
    asked = [Question("1", "1.jpg", "Is there a dog?", "yes", "random")]
    other = [Question("1", "1.jpg", "Is there a cat?", "yes", "random")]
    here, there = ([_scored(one) for one in questions] for questions in (asked, other))
    compare(POPE, here, {"mitigated": here})
    with pytest.raises(AnswerMismatch, match=r"question 1 \(random\): the question is 'Is there a dog\?' in the first"):
        compare(POPE, here, {"mitigated": there})


def _scored(question: Question):
    from vlm_evals.metrics.pope import score_answers

    return score_answers([question], [GivenAnswer("1", "Yes")])[0].as_score()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("map.json", '{"42": "A dog.", "000000000007.jpg": ""}'),
        ("map.jsonl", '{"42": ["A dog."]}\n{"7": ""}'),
        ("table.csv", 'image_id,caption\n42,"A dog."\n7,\n'),
        ("table.tsv", "\ufeffimage_id\tcaption\r\n42\tA dog.\r\n7\t\r\n"),
    ],
)
def test_captions_as_a_mapping_and_as_a_table(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, "utf-8", newline="")
    found = read_captions(tmp_path / name)
    assert [one.text for one in found] == ["A dog.", ""]
    assert [str(one.image_id)[-6:] for one in found] in (["42", "07.jpg"], ["42", "7"])


def test_answers_as_a_mapping_and_as_a_table(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"1": "Yes", "2": "No"}')
    (tmp_path / "table.csv").write_text("question_id,question,answer\n1,Is it?,Yes\n2,Is it?,No\n")
    for name in ("map.json", "table.csv"):
        assert [(one.question_id, one.text) for one in read_answers(tmp_path / name)] == [("1", "Yes"), ("2", "No")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", "image_id,caption\n1,a,b\n", r"line 2: has another number of cells than its header \(image_id, cap"),
        ("a.csv", 'image_id,caption\n1,"a', r"is no table of CSV"),
        ("a.csv", "image_id,text\n1,\n2", r"line 3: has another number of cells"),
        ("a.json", '{"image_id": 1, "caption": null}', r"no `caption` or `text` that is a string; `caption` is null"),
        (
            "a.json",
            '{"question_id": 1, "image": "1.jpg", "text": "Is there a dog in the image?", "label": "yes"}',
            "line 1: is a question with its label; give the file of what the model said",
        ),
        ("a.json", '{"42": ["dog", "cat"], "7": ["dining table"]}', "is an index of objects: id -> names; give what"),
        (
            "a.json",
            '{"question_id": 1, "prompt": "Is there a dog in the image?\\nOne word.", "text": "Yes"}',
            "line 1: answers the question 'Is there a dog .*judge pope",
        ),
    ],
)
def test_what_are_no_captions_is_refused_with_the_cause(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FileFormatError, match=complaint):
        read_captions(tmp_path / name)


def test_a_caption_of_an_unknown_image_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text('{"42": ["dog"]}')
    write_rows(tmp_path / "said.jsonl", [{"image_id": 42, "caption": "A dog."}, {"image_id": 7, "caption": "A cat."}])
    assert read_captions(tmp_path / "said.jsonl")[1] == Caption(7, "A cat.")
    with pytest.raises(UnknownImage, match=r"said\.jsonl, line 2: image 7 is not in the ground truth truth\.json"):
        judge("chair", tmp_path / "said.jsonl", truth=tmp_path / "truth.json")


@pytest.mark.parametrize(
    ("annotation", "complaint"),
    [
        ({"image_id": 42, "caption": None}, "a caption of image 42 is None, and no text"),
        ({"image_id": 42, "category_id": 18}, "it has no `categories`, which name them"),
    ],
)
def test_annotations_that_lack_something_say_what(tmp_path: Path, annotation: dict, complaint: str) -> None:
    contents = {"images": [{"id": 42, "file_name": "42.jpg"}], "annotations": [{"id": 1, **annotation}]}
    (tmp_path / "truth.json").write_text(json.dumps(contents))
    write_rows(tmp_path / "said.jsonl", [{"image_id": 42, "caption": "A dog."}])
    with pytest.raises(EvaluationError, match=complaint):
        judge("chair", tmp_path / "said.jsonl", truth=tmp_path / "truth.json")


@pytest.mark.shared
def test_published_answers_in_llavas_layout(shared_data: Path) -> None:
    folder = shared_data / "pope"
    labels = [folder / f"questions/original/coco_pope_{split}.jsonl" for split in LLAVA_SPLITS]
    asked = folder / "answers/llava_pope_test.jsonl"
    answers = folder / "answers/llava-layout-13b.jsonl"
    found = judge("pope", [answers], questions=[asked, *labels])
    assert {split: one["counts"]["questions"] for split, one in found["splits"].items()} == {
        "adversarial": 3000,
        "popular": 3000,
        "random": 2910,
    }
    with pytest.raises(AnswerMismatch, match=r"where question \d+ \(random\) is"):  # another edition of 3,000
        judge("pope", [answers], questions=labels)


REPOPE = {  # true yes, false yes, true no, false no, as RePOPE's program counts them
    "random": (998, 63, 1552, 161),
    "popular": (1004, 77, 1457, 189),
    "adversarial": (1009, 129, 1368, 178),
}


@pytest.mark.shared
@pytest.mark.parametrize("split", REPOPE)
def test_published_answers_with_corrected_labels(shared_data: Path, split: str) -> None:
    answers = shared_data / f"pope/answers/llava-7b-coco-{split}-greedy.jsonl"
    found = judge("pope", [answers], questions=[shared_data / f"repope/coco_repope_{split}.json"], subset=True)
    counts = found["splits"][split]["counts"]
    assert tuple(counts[name] for name in ("true_yes", "false_yes", "true_no", "false_no")) == REPOPE[split]
