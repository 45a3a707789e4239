"""Questions of several files, some of which take their labels from the others, as LLaVA's file takes POPE's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_evals.data.formats import Question, label_of, question_id_of, read_questions
from vlm_evals.data.image_names import told_apart
from vlm_evals.data.pairing import same_question
from vlm_evals.data.tabular import rows_of
from vlm_evals.errors import AnswerMismatch, FileFormatError
from vlm_evals.records import Label

Labels = Mapping[tuple[str, str], Label]


def read_question_files(paths: Sequence[Path]) -> dict[Path, list[Question]]:
    """Return the questions of files, in their order.

    Questions without labels take those of the other files: of the same image and text, in the same split where the
    labels name it, or of the same id where a file holds ids and labels alone. The files that give them ask nothing
    themselves.

    Raises:
        FileFormatError: naming file and line of what is no question, or of one that has no label.
        AnswerMismatch: if two files ask the same question of the same split.
    """
    rows = {path: list(rows_of(path)) for path in paths}
    bare = [path for path, found in rows.items() if found and not any("label" in row for _, row in found)]
    if not bare:
        return _distinct({path: read_questions(path) for path in paths})
    others = [path for path in paths if path not in bare]
    if not others:
        raise FileFormatError(
            bare[0], None, "holds questions without labels; give the files with the labels as further files of "
            "questions, as POPE's coco_pope_random, coco_pope_popular and coco_pope_adversarial are",
        )  # fmt: skip
    by_id = [path for path in others if not any("text" in row or "question" in row for _, row in rows[path])]
    named = {key: label for path in by_id for key, label in _named_labels(path, rows[path]).items()}
    stated = [question for path in others if path not in by_id for question in read_questions(path)]
    joined = {path: _joined(path, rows[path], named, stated) for path in bare}
    return _distinct(joined)


def _named_labels(path: Path, rows: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Label]:
    """Return question id -> label of a file that holds these alone."""
    found: dict[str, Label] = {}
    for line, row in rows:
        name, label = question_id_of(row) or question_id_of(row, "id"), label_of(row.get("label"))
        if name is None or label is None:
            raise FileFormatError(path, line, "a label needs `question_id` or `id`, and `label`: yes or no")
        if found.setdefault(name, label) != label:
            raise FileFormatError(path, line, f"question {name} has another label above")
    return found


def _joined(
    path: Path, rows: Sequence[tuple[int, dict[str, Any]]], named: Mapping[str, Label], stated: Sequence[Question]
) -> list[Question]:
    """Return the questions of a file without labels, with the labels of others."""
    splits = {question.split for question in stated}
    known: dict[tuple[str, str, str], Label] = {}
    keys = told_apart(
        [*(one.image for one in stated), *(row["image"] for _, row in rows if _is_name(row.get("image")))]
    )
    for question in stated:
        known[question.split, keys[question.image], same_question(question.text)] = question.label
    labelled = []
    for line, row in rows:
        name, image, text = question_id_of(row), row.get("image"), row.get("text", row.get("question"))
        if name is None or not isinstance(image, str) or not isinstance(text, str):
            raise FileFormatError(path, line, "a question needs `question_id`, `image` and `text`")
        split = str(row.get("category") or row.get("split") or path.stem.rsplit("_", 1)[-1])
        picture = keys.get(image, "")
        among = [split] if split in splits else sorted(splits)
        labels = {known.get((one, picture, same_question(text))) for one in among} - {None}
        label = named.get(name) or (labels.pop() if len(labels) == 1 else None)
        if label is None:
            raise FileFormatError(path, line, f"no file of labels holds question {name} ({split}), {text[:60]!r}")
        labelled.append(Question(name, image, text, label, split))
    return labelled


def _keys(stated: Sequence[str], asked: Sequence[str]) -> dict[str, str]:
    """Return image -> key: its name's, unless either side has images of several folders under one name."""
    own = told_apart(stated) | told_apart(asked)
    return told_apart([*stated, *asked]) if any("/" in key for key in own.values()) else own


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _distinct(files: dict[Path, list[Question]]) -> dict[Path, list[Question]]:
    """Return the files as they are.

    Raises:
        AnswerMismatch: if two of them ask the same question of the same split.
    """
    seen: dict[tuple[str, str], Path] = {}
    for path, questions in files.items():
        for question in questions:
            other = seen.setdefault((question.split, question.question_id), path)
            if other != path:
                raise AnswerMismatch(
                    f"{path}: question {question.question_id} ({question.split}) is asked in {other} too; give one "
                    "file for each split, or judge them one after the other"
                )
    return files
