"""Other programs' files: reference captions, POPE questions and answers, LLaVA answers, lmms-eval sample logs.

Readers take any of the layouts and say by file and line what is wrong; writers write what those programs read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_evals.data.tabular import rows_of
from vlm_evals.errors import EvaluationError, FileFormatError
from vlm_evals.records import Label, image_key, write_rows
from vlm_evals.text.objects import vocabulary

_WRAPPERS = ("sentences", "logs", "captions", "annotations", "results", "answers")
_CAPTION_KEYS = ("caption", "text", "answer", "response", "prediction", "pred")
_LABELS: dict[str, Label] = {"yes": "yes", "no": "no"}
_ANSWER_KEYS = ("answer", "ans", "text", "response", "prediction", "pred", "caption")
_IMAGE_KEYS = ("image_id", "image", "image_name", "file_name", "question_id")
_PREDICTED = ("prediction", "pred")  # beside it `answer` is what would have been right, as in VLMEvalKit's files
_ASKED_KEYS = ("query", "question", "prompt")
_POPE_QUESTION = re.compile(r"\bis there an? .+ in the iman?ge\?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption somebody's model wrote.

    Attributes:
        image_id: as the file states it.
        text: the caption.
        line: of the file; 0 where it comes from none.
    """

    image_id: int | str
    text: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Question:
    """A yes-or-no question. Attributes are POPE's fields; `split` is the strategy it belongs to."""

    question_id: str
    image: str
    text: str
    label: Label
    split: str = ""


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer to a question. `question_id` is None in files that rely on the order of their lines.

    Attributes:
        question_id: of the question.
        text: what the model said.
        question: what was asked, where the file says so.
        split: the split of the question, likewise.
        line: of the file; 0 where it comes from none.
        image: the image that was asked about, likewise.
    """

    question_id: str | None
    text: str
    question: str | None = None
    split: str | None = None
    line: int = 0
    image: str | None = field(default=None, compare=False)


def read_captions(path: Path | str) -> list[Caption]:
    """Return the captions of a JSON list, JSON lines, a mapping of ids to captions, a table, or an lmms-eval log.

    Raises:
        FileFormatError: naming the line that has no image or no caption, or that holds a question.
    """
    return [_caption(Path(path), line, row) for line, row in _unwrapped(Path(path), "image_id", "caption")]


def _caption(path: Path, line: int, row: Mapping[str, Any]) -> Caption:
    image_id = _image_id(row)
    try:
        image_key(image_id)
    except EvaluationError as error:
        given = ", ".join(map(str, list(row)[:6])) or "no fields"
        raise FileFormatError(path, line, f"{error}; the object has {given}") from error
    text = _text(path, line, row, _CAPTION_KEYS)
    _refuse_question(path, line, row, text)
    if (asked := _asked(row)) is not None and _POPE_QUESTION.search(asked):
        raise FileFormatError(
            path, line, f"answers the question {asked.strip()!r}, and is no caption; `vlm-heads judge pope` scores it"
        )
    return Caption(image_id, text, line)


def _refuse_question(path: Path, line: int, row: Mapping[str, Any], text: str) -> None:
    if "label" in row and row.get("text") == text and _POPE_QUESTION.fullmatch(text.strip()):
        raise FileFormatError(path, line, "is a question with its label; give the file of what the model said")


def _asked(row: Mapping[str, Any]) -> str | None:
    """Return what was asked, where a row says so."""
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    found = next((row[key] for key in _ASKED_KEYS if key in row), doc.get("question"))
    return found if isinstance(found, str) else None


def _image_id(row: Mapping[str, Any]) -> Any:
    """Return the image's id; an lmms-eval log keeps it in the document or beside the metric."""
    inner = [value for key, value in row.items() if isinstance(value, dict) and key != "arguments"]
    for place in (row, *inner):
        for key in _IMAGE_KEYS:
            if place.get(key) is not None and not isinstance(place[key], dict | list):
                return place[key]
    return None


def _text(path: Path, line: int, row: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return what the model said: lmms-eval's (filtered) response, or the first of the keys that is there."""
    if "resps" in row or "filtered_resps" in row:
        value = row.get("filtered_resps") or row.get("resps")
        while isinstance(value, list) and value:
            value = value[0]
    else:
        value = next((row[key] for key in (*_PREDICTED, *keys) if key in row), None)
    if not isinstance(value, str):
        wanted = " or ".join(f"`{key}`" for key in (keys[0], "text"))
        empty = next((f"; `{key}` is null" for key in keys if key in row and row[key] is None), "")
        given = ", ".join(list(row)[:6])
        raise FileFormatError(path, line, f"no {wanted} that is a string{empty}; the object has {given}")
    return value


def _unwrapped(path: Path, id_key: str, text_key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file; those of a single object that holds them in a list are taken out of it.

    An object that maps ids to texts gives a row for each text, with the keys named.
    """
    for line, row in rows_of(path):
        if (mapped := _mapped(row)) is not None:
            listed = all(isinstance(value, list) for value in row.values())
            if listed and mapped and all(text in vocabulary().nodes for _, text in mapped):
                raise FileFormatError(path, line, "is an index of objects: id -> names; give what the model said")
            yield from ((line, {id_key: name, text_key: text}) for name, text in mapped)
            continue
        rows = next((row[key] for key in _WRAPPERS if isinstance(row.get(key), list)), None)
        if rows is None or any(key in row for key in (*_IMAGE_KEYS, "doc_id", "question")):
            yield line, row
            continue
        for number, inner in enumerate(rows, start=1):
            if not isinstance(inner, dict):
                raise FileFormatError(path, line, f"item {number} is not a JSON object")
            yield line, inner


def _mapped(row: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Return the (id, text) pairs of an object that maps numbers or image files to texts or lists of texts."""
    if not row or not all(name.isdecimal() or re.search(r"\.[A-Za-z]{3,4}$", name) for name in row):
        return None
    listed = {name: value if isinstance(value, list) else [value] for name, value in row.items()}
    pairs = [(name, text) for name, texts in listed.items() for text in texts]
    return pairs if all(isinstance(text, str) for _, text in pairs) else None


def read_questions(path: Path | str, split: str | None = None) -> list[Question]:
    """Return POPE questions as they are, unusual wording included.

    Args:
        path: JSON lines with question_id, image, text and label (a `category` counts as the split). Lists of texts and
            labels, as PAI has them, are a question for each text; without question ids they are numbered from 1.
        split: the split of questions that name none; by default the last word of the file's name.

    Raises:
        FileFormatError: naming a line without one of the fields, or with a doubled question id.
    """
    path = Path(path)
    fallback = split or path.stem.rsplit("_", 1)[-1]
    seen: dict[tuple[str, str], int] = {}
    questions: list[Question] = []
    for line, row in rows_of(path):
        for one in _each_question(path, line, row, len(questions)):
            question = _question(path, line, one, fallback)
            key = question.split, question.question_id
            if key in seen:
                reason = f"question id {question.question_id} is already used in line {seen[key]}"
                raise FileFormatError(path, line, reason)
            seen[key] = line
            questions.append(question)
    if not questions:
        raise FileFormatError(path, None, "holds no question")
    return questions


def _each_question(path: Path, line: int, row: Mapping[str, Any], before: int) -> Iterator[Mapping[str, Any]]:
    """Yield the questions of a row: itself, or one for each of its texts."""
    texts, labels = row.get("text"), row.get("label")
    if not isinstance(texts, list):
        yield row
        return
    if not isinstance(labels, list) or len(labels) != len(texts):
        raise FileFormatError(path, line, f"has {len(texts)} questions and not as many labels")
    given = question_id_of(row)
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        name = str(before + number) if given is None else f"{given}.{number}"
        yield {**row, "question_id": name, "text": text, "label": label}


def _question(path: Path, line: int, row: Mapping[str, Any], fallback: str) -> Question:
    text, image, label = row.get("text", row.get("question")), row.get("image"), row.get("label")
    question_id = question_id_of(row)
    if question_id is None or not isinstance(text, str) or not isinstance(image, str):
        raise FileFormatError(path, line, "a question needs `question_id`, `image`, `text` and `label`")
    known = label_of(label)
    if known is None:
        missing = "; give the file that holds the labels as a further file of questions" if label is None else ""
        raise FileFormatError(path, line, f"the label is {label!r}; it must be yes or no{missing}")
    split = row.get("category") or row.get("split") or fallback
    return Question(question_id, image, text, known, str(split))


def label_of(value: object) -> Label | None:
    """Return the label that a value states, a word or 1 and 0; None where it is none."""
    if isinstance(value, int) and value in (0, 1):
        return "yes" if value else "no"
    return _LABELS.get(value.strip().lower()) if isinstance(value, str) else None


def question_id_of(row: Mapping[str, Any], key: str = "question_id") -> str | None:
    """Return the id of a row's question; None where it has none."""
    value = row.get(key)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def read_answers(path: Path | str) -> list[GivenAnswer]:
    """Return the answers of a POPE, LLaVA or PAI answer file, a mapping of ids to answers, or an lmms-eval sample log.

    Raises:
        FileFormatError: naming a line without an answer.
    """
    path = Path(path)
    return [_answer(path, line, one) for line, row in _unwrapped(path, "question_id", "answer") for one in _said(row)]


def _said(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the answers of a row: itself, or one for each of its answers where it has as many questions."""
    key = next((key for key in (*_PREDICTED, *_ANSWER_KEYS) if key in row), "")
    asked = next((name for name in (*_ASKED_KEYS, "text") if name != key and isinstance(row.get(name), list)), "")
    texts, questions = row.get(key), row.get(asked)
    if not isinstance(texts, list) or not isinstance(questions, list) or len(texts) != len(questions):
        yield row
        return
    for number, (text, question) in enumerate(zip(texts, questions, strict=True), start=1):
        given = question_id_of(row)
        named = {} if given is None else {"question_id": f"{given}.{number}"}
        yield {**row, key: text, asked: question, **named}


def _answer(path: Path, line: int, row: Mapping[str, Any]) -> GivenAnswer:
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    split = row.get("category", row.get("split", doc.get("category")))
    text = _text(path, line, row, _ANSWER_KEYS)
    _refuse_question(path, line, row, text)
    question_id = next((found for place in (row, doc, *_inner(row)) if (found := question_id_of(place))), None)
    asked = _asked(row)
    if asked is None and isinstance(beside := row.get("text"), str) and beside is not text and "?" in beside:
        asked = beside  # a file of questions with the answers added
    image = next((row[key] for key in _IMAGE_KEYS[1:4] if isinstance(row.get(key), str) and row[key].strip()), None)
    return GivenAnswer(question_id, text, asked, split if isinstance(split, str) else None, line, image)


def _inner(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what lmms-eval logs beside its metrics: objects that name the question."""
    return [value for key, value in row.items() if isinstance(value, dict) and key not in ("doc", "arguments")]


def write_captions(path: Path | str, captions: Iterable[Caption]) -> None:
    """Write the reference caption layout: JSON lines of image_id and caption."""
    write_rows(Path(path), ({"image_id": one.image_id, "caption": one.text} for one in captions))


def write_questions(path: Path | str, questions: Iterable[Question]) -> None:
    """Write POPE's question layout."""
    rows = (
        {"question_id": _number(one.question_id), "image": one.image, "text": one.text, "label": one.label}
        for one in questions
    )
    write_rows(Path(path), rows)


def write_answers(path: Path | str, answers: Iterable[GivenAnswer]) -> None:
    """Write POPE's answer layout: JSON lines of question_id, question and answer."""
    rows = (
        {"question_id": _number(one.question_id), "question": one.question or "", "answer": one.text} for one in answers
    )
    write_rows(Path(path), rows)


def write_llava_answers(path: Path | str, answers: Iterable[GivenAnswer], model: str) -> None:
    """Write LLaVA's answer layout, as its POPE script reads it."""
    rows: Iterable[dict[str, Any]] = (
        {
            "question_id": _number(one.question_id),
            "prompt": one.question or "",
            "text": one.text,
            "answer_id": f"{model}-{one.question_id}",
            "model_id": model,
            "metadata": {},
        }
        for one in answers
    )
    write_rows(Path(path), rows)


def write_lmms_samples(path: Path | str, answers: Iterable[GivenAnswer]) -> None:
    """Write the fields of an lmms-eval sample log that carry question and response."""
    rows = (
        {
            "doc_id": number,
            "doc": {"question_id": one.question_id, "question": one.question or "", "category": one.split or ""},
            "resps": [[one.text]],
            "filtered_resps": [one.text],
        }
        for number, one in enumerate(answers)
    )
    write_rows(Path(path), rows)


def _number(question_id: str | None) -> int | str | None:
    """Return a question id as the integer POPE's files write, where it is one."""
    whole = question_id is not None and question_id.isascii() and question_id.isdigit() and len(question_id) < 19
    return int(question_id) if whole and question_id is not None else question_id
