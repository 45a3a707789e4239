"""Other programs' files: reference captions, POPE questions and answers, LLaVA answers, lmms-eval sample logs.

Readers take any of the layouts and say by file and line what is wrong; writers write what those programs read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_evals.errors import EvaluationError, FileFormatError
from vlm_evals.records import Label, image_key, read_rows, write_rows

_WRAPPERS = ("sentences", "logs", "captions", "annotations", "results", "answers")
_CAPTION_KEYS = ("caption", "text", "answer", "response", "prediction", "pred")
_LABELS: dict[str, Label] = {"yes": "yes", "no": "no"}
_ANSWER_KEYS = ("answer", "text", "response", "prediction", "pred", "caption")
_IMAGE_KEYS = ("image_id", "image", "image_name", "file_name", "question_id")


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption somebody's model wrote.

    Attributes:
        image_id: as the file states it.
        text: the caption.
    """

    image_id: int | str
    text: str


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
    """An answer to a question. `question_id` is None in files that rely on the order of their lines."""

    question_id: str | None
    text: str
    question: str | None = None
    split: str | None = None
    line: int = 0


def read_captions(path: Path | str) -> list[Caption]:
    """Return the captions of a JSON list, JSON lines, the reference evaluator's output or an lmms-eval log.

    Raises:
        FileFormatError: naming the line that has no image or no caption.
    """
    return [_caption(Path(path), line, row) for line, row in _unwrapped(Path(path))]


def _caption(path: Path, line: int, row: Mapping[str, Any]) -> Caption:
    image_id = _image_id(row)
    try:
        image_key(image_id)
    except EvaluationError as error:
        given = ", ".join(map(str, list(row)[:6])) or "no fields"
        raise FileFormatError(path, line, f"{error}; the object has {given}") from error
    return Caption(image_id, _text(path, line, row, _CAPTION_KEYS))


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
        value = next((row[key] for key in keys if key in row), None)
    if not isinstance(value, str):
        wanted = " or ".join(f"`{key}`" for key in keys[:2])
        raise FileFormatError(path, line, f"no {wanted} that is a string; the object has {', '.join(list(row)[:6])}")
    return value


def _unwrapped(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file; those of a single object that holds them in a list are taken out of it."""
    for line, row in read_rows(path):
        rows = next((row[key] for key in _WRAPPERS if isinstance(row.get(key), list)), None)
        if rows is None or any(key in row for key in (*_IMAGE_KEYS, "doc_id", "question")):
            yield line, row
            continue
        for number, inner in enumerate(rows, start=1):
            if not isinstance(inner, dict):
                raise FileFormatError(path, line, f"item {number} is not a JSON object")
            yield line, inner


def read_questions(path: Path | str, split: str | None = None) -> list[Question]:
    """Return POPE questions as they are, unusual wording included.

    Args:
        path: JSON lines with question_id, image, text and label (a `category` counts as the split).
        split: the split of questions that name none; by default the last word of the file's name.

    Raises:
        FileFormatError: naming a line without one of the fields, or with a doubled question id.
    """
    path = Path(path)
    fallback = split or path.stem.rsplit("_", 1)[-1]
    seen: dict[tuple[str, str], int] = {}
    questions = []
    for line, row in read_rows(path):
        question = _question(path, line, row, fallback)
        key = question.split, question.question_id
        if key in seen:
            raise FileFormatError(path, line, f"question id {question.question_id} is already used in line {seen[key]}")
        seen[key] = line
        questions.append(question)
    if not questions:
        raise FileFormatError(path, None, "holds no question")
    return questions


def _question(path: Path, line: int, row: Mapping[str, Any], fallback: str) -> Question:
    text, image, label = row.get("text", row.get("question")), row.get("image"), row.get("label")
    question_id = _question_id(row)
    if question_id is None or not isinstance(text, str) or not isinstance(image, str):
        raise FileFormatError(path, line, "a question needs `question_id`, `image`, `text` and `label`")
    if not isinstance(label, str) or (known := label.strip().lower()) not in _LABELS:
        raise FileFormatError(path, line, f"the label is {label!r}; it must be yes or no")
    split = row.get("category") or row.get("split") or fallback
    return Question(question_id, image, text, _LABELS[known], str(split))


def _question_id(row: Mapping[str, Any]) -> str | None:
    value = row.get("question_id")
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def read_answers(path: Path | str) -> list[GivenAnswer]:
    """Return the answers of a POPE or LLaVA answer file or an lmms-eval sample log.

    Raises:
        FileFormatError: naming a line without an answer.
    """
    path = Path(path)
    answers = []
    for line, row in _unwrapped(path):
        doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
        asked = row.get("question", row.get("prompt", doc.get("question")))
        split = row.get("category", row.get("split", doc.get("category")))
        text = _text(path, line, row, _ANSWER_KEYS)
        question_id = next((found for place in (row, doc, *_inner(row)) if (found := _question_id(place))), None)
        answers.append(
            GivenAnswer(
                question_id,
                text,
                asked if isinstance(asked, str) else None,
                split if isinstance(split, str) else None,
                line,
            )
        )
    return answers


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
