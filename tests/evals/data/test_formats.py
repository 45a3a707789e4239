"""Other programs' files are read in every layout, written so that they can be read, and refused by file and line."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vlm_evals.data import formats
from vlm_evals.data.formats import Caption, GivenAnswer, Question, read_answers, read_captions, read_questions
from vlm_evals.errors import EvaluationError, FileFormatError
from vlm_evals.records import (
    Answer,
    file_hash,
    image_key,
    read_json,
    read_rows,
    read_text,
    write_json,
    write_rows,
    write_text,
)

LMMS_ROW = {
    "doc_id": 0,
    "doc": {"question_id": "7", "image_id": 42, "question": "Is there a dog?", "answer": "yes", "category": "popular"},
    "target": "yes",
    "arguments": [["prompt", {"max_new_tokens": 8}]],
    "resps": [["No, there is a cat"]],
    "filtered_resps": ["No, there is a cat"],
    "pope_accuracy": {"question_id": "7", "score": 0.0},
}


def written(folder: Path, text: str | bytes, name: str = "file.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        '{"image_id": 42, "caption": "A dog."}\n\n{"image_id": 7, "caption": ""}\n',  # the reference's JSON lines
        '{"image_id": 42, "text": "A dog."}\r\n{"image_id": 7, "text": ""}',
        '[{"image_id": 42, "caption": "A dog."},\n {"image_id": 7, "caption": ""}]',  # the reference's list
        '{"overall_metrics": {}, "sentences": [{"image_id": 42, "caption": "A dog."}, {"image_id": 7, "caption": ""}]}',
        '{"question_id": 42, "text": "A dog.", "model_id": "x"}\n{"question_id": 7, "text": "", "model_id": "x"}',
        '{"doc": {"image_id": 42}, "resps": [["A dog."]]}\n{"doc": {"image_id": 7}, "resps": [[""]]}',  # lmms-eval
        '{"logs": [{"doc_id": 0, "doc": {"image_id": 42}, "filtered_resps": ["A dog."], "resps": [["A dog.\\n"]]},'
        ' {"doc_id": 1, "doc": {"image_id": 7}, "filtered_resps": [""], "resps": [[""]]}]}',
    ],
)
def test_every_layout_of_captions(tmp_path: Path, text: str) -> None:
    assert read_captions(written(tmp_path, text)) == [Caption(42, "A dog."), Caption(7, "")]


def test_a_byte_order_mark_and_rare_line_separators_are_text(tmp_path: Path) -> None:
    path = written(tmp_path, '\ufeff{"image_id": 1, "caption": "A dog.\u2028A\u0085cat."}\n')
    assert read_captions(path) == [Caption(1, "A dog.\u2028A\u0085cat.")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"image_id": 1, "caption": "a"}\n{"image_id": 2, "cap', r"line 2: is not JSON"),
        ('{"image_id": 1, "caption": "a"}\n[1]', r"line 2: holds list, not a JSON object"),
        ('{"image_id": 1, "caption": "a"} {"image_id": 2}', r"line 1: something follows the object"),
        ('{"image_id": 1, "caption": "a"}\n\n{"image_id": 2, "captoin": "b"}', r"line 3: no `caption` or `text`"),
        ('{"image_id": 1, "caption": null}', r"line 1: no `caption` or `text` that is a string"),
        ('{"image_id": true, "caption": "a"}', r"line 1: True is no image id"),
        ('{"caption": "a"}', r"line 1: None is no image id"),
        ('[{"image_id": 1, "caption": "a"},\n{"image_id": 2, "caption": "b"}', r"line 2: a comma or the end"),
        ('[{"image_id": 1, "caption": "a"}\n{"image_id": 2}]', r"line 1: a comma or the end"),
        ("[\n3]", r"line 2: holds int"),
        ('[{"image_id": 1, "caption": "a"}] x', r"line 1: the list of objects is not closed, or something"),
        (b'{"image_id": 1, "caption": "a"}\n{"image_id": 2, "caption": "\xff"}', r"line 2: is not UTF-8"),
        ('{"sentences": [1]}', r"line 1: item 1 is not a JSON object"),
        ('{"image_id": 1' + "0" * 5000 + ', "caption": "a"}', r"line 1: is not JSON that can be used"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str | bytes, complaint: str) -> None:
    with pytest.raises(FileFormatError, match=rf"file\.jsonl, {complaint}"):
        read_captions(written(tmp_path, text))


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="line 1"):
        read_captions(written(tmp_path, '{"a":' + "[" * 200_000))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="there is no such file"):
        read_captions(tmp_path / "none.jsonl")
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_text(tmp_path)


def test_an_empty_file_has_no_captions(tmp_path: Path) -> None:
    assert read_captions(written(tmp_path, " \n")) == []
    with pytest.raises(FileFormatError, match="holds no question"):
        read_questions(written(tmp_path, ""))


@pytest.mark.parametrize(
    ("given_id", "key"),
    [
        (42, "42"),
        ("42", "42"),
        ("000000000042.jpg", "42"),
        ("COCO_val2014_000000000042.jpg", "42"),
        ("images/val2014/COCO_val2014_000000000042.jpg", "42"),
        ("000", "0"),
        ("street 42.png", "street 42.png"),
    ],
)
def test_an_image_is_known_by_one_name(given_id: int | str, key: str) -> None:
    assert image_key(given_id) == key


@pytest.mark.parametrize("given_id", [None, True, 1.5, "", " ", [1]])
def test_what_is_no_image_id(given_id: object) -> None:
    with pytest.raises(EvaluationError, match="is no image id"):
        image_key(given_id)


def test_questions_are_read_as_they_are(tmp_path: Path) -> None:
    text = '{"question_id": 1, "image": "a.jpg", "text": "Is there an ox in the imange?", "label": "Yes"}\n'
    text += '{"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "no", "category": "random"}'
    path = written(tmp_path, text, "coco_pope_adversarial.jsonl")
    assert read_questions(path) == [
        Question("1", "a.jpg", "Is there an ox in the imange?", "yes", "adversarial"),
        Question("1", "a.jpg", "Is there a cat?", "no", "random"),
    ]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question_id": 1, "image": "a", "text": "?", "label": "maybe"}, "the label is 'maybe'; it must be yes or no"),
        ({"question_id": 1, "image": "a", "text": "?"}, "the label is None"),
        ({"image": "a", "text": "?", "label": "no"}, "a question needs `question_id`"),
        ({"question_id": 0, "image": "a", "text": "?", "label": "no"}, "question id 0 is already used in line 1"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, row: dict, complaint: str) -> None:
    good = {"question_id": 0, "image": "a", "text": "?", "label": "no"}
    path = written(tmp_path, f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(FileFormatError, match=f"line 2: {complaint}"):
        read_questions(path)


def test_answers_of_three_programs(tmp_path: Path) -> None:
    pope = written(tmp_path, '{"question": "Is there a dog?", "answer": "Yes"}', "pope.json")
    assert read_answers(pope) == [GivenAnswer(None, "Yes", "Is there a dog?", None, 1)]
    llava = written(tmp_path, '{"question_id": 3, "prompt": "Is there a dog?", "text": "No"}', "llava.jsonl")
    assert read_answers(llava) == [GivenAnswer("3", "No", "Is there a dog?", None, 1)]
    lmms = written(tmp_path, json.dumps(LMMS_ROW), "lmms.jsonl")
    assert read_answers(lmms) == [GivenAnswer("7", "No, there is a cat", "Is there a dog?", "popular", 1)]
    assert read_captions(lmms) == [Caption(42, "No, there is a cat")]


TEXT = st.text(max_size=20)
ANSWERS = st.lists(
    st.builds(GivenAnswer, st.integers(0, 10**9).map(str), TEXT, TEXT, st.sampled_from(["random", "popular"]))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANSWERS)
def test_answers_survive_being_written(tmp_path: Path, answers: list[GivenAnswer]) -> None:
    path = tmp_path / "answers.jsonl"
    bare = [(one.question_id, one.text, one.question) for one in answers]
    formats.write_answers(path, answers)
    assert [(one.question_id, one.text, one.question) for one in read_answers(path)] == bare
    formats.write_llava_answers(path, answers, "m")
    assert [(one.question_id, one.text, one.question) for one in read_answers(path)] == bare
    formats.write_lmms_samples(path, answers)
    assert [(one.question_id, one.text, one.question) for one in read_answers(path)] == bare
    assert [one.split for one in read_answers(path)] == [one.split for one in answers]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.builds(Caption, st.integers() | st.text("abc", min_size=1), TEXT)))
def test_captions_survive_being_written(tmp_path: Path, captions: list[Caption]) -> None:
    formats.write_captions(tmp_path / "captions.jsonl", captions)
    assert read_captions(tmp_path / "captions.jsonl") == captions


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(Question, st.integers(0).map(str), TEXT, TEXT, st.sampled_from(["yes", "no"]), st.just("random")),
        unique_by=lambda question: question.question_id,
        min_size=1,
    )
)
def test_questions_survive_being_written(tmp_path: Path, questions: list[Question]) -> None:
    formats.write_questions(tmp_path / "coco_pope_random.jsonl", questions)
    assert read_questions(tmp_path / "coco_pope_random.jsonl") == questions


KEYS = ("image_id", "image", "caption", "text", "resps", "doc", "question_id", "answer", "label", "sentences")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            TEXT | st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.binary(max_size=60) | st.lists(JSON, max_size=3).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()))
def test_no_file_breaks_a_reader(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    for read in (read_captions, read_questions, read_answers, read_json, lambda one: list(read_rows(one))):
        with contextlib.suppress(FileFormatError):  # which names the file by its making
            read(path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "below" / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert read_json(path) == {"a": 1}
    assert [one.name for one in path.parent.iterdir()] == ["report.json"]
    write_rows(path, [{"text": "\ud800"}])  # JSON can say what UTF-8 cannot
    assert list(read_rows(path)) == [(1, {"text": "\ud800"})]


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    # the well-known SHA-256 of "abc"
    path = written(tmp_path, "abc")
    assert file_hash(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_answers_of_a_run_are_plain_data_and_back() -> None:
    answer = Answer("7", "A dog.", (1, 2), 0.5, {"layers": [1]})
    assert Answer.from_row(json.loads(json.dumps(answer.as_row()))) == answer
    for row in ({}, {"sample_id": 1, "text": ""}, {"sample_id": "1", "text": "", "token_ids": ["a"]}):
        with pytest.raises(EvaluationError, match="answer"):
            Answer.from_row(row)
    with pytest.raises(EvaluationError, match="seconds"):
        Answer.from_row({"sample_id": "1", "text": "", "seconds": "long"})


@pytest.mark.shared
def test_published_question_files(shared_data: Path) -> None:
    for file in sorted((shared_data / "pope/questions").glob("*/*.jsonl")):
        questions = read_questions(file)
        assert {question.split for question in questions} == {file.stem.rsplit("_", 1)[-1]}
        assert sum(question.label == "yes" for question in questions) == len(questions) / 2


@pytest.mark.shared
def test_published_files_come_back_as_they_were_read(shared_data: Path, tmp_path: Path) -> None:
    for file in sorted((shared_data / "chair/captions").glob("*.jsonl")):
        captions = read_captions(file)
        formats.write_captions(tmp_path / "captions.jsonl", captions)
        assert read_captions(tmp_path / "captions.jsonl") == captions
    for file in sorted((shared_data / "pope/questions").glob("*/*.jsonl")):
        questions = read_questions(file)
        formats.write_questions(tmp_path / file.name, questions)
        assert read_questions(tmp_path / file.name) == questions
    answers = read_answers(shared_data / "pope/synthetic_random_answers.jsonl")
    formats.write_answers(tmp_path / "answers.jsonl", answers)
    assert read_answers(tmp_path / "answers.jsonl") == answers
    formats.write_lmms_samples(tmp_path / "log.jsonl", answers)
    assert [one.text for one in read_answers(tmp_path / "log.jsonl")] == [one.text for one in answers]
