"""HallusionBench's file of questions, and answers that carry its fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vlm_evals.data.formats import GivenAnswer
from vlm_evals.data.items import Item, ItemFolder, find_files
from vlm_evals.data.tabular import rows_of
from vlm_evals.errors import FileFormatError, TaskError
from vlm_evals.records import read_rows

QUESTIONS = "HallusionBench.json"
PLACE = ("category", "subcategory", "set_id", "figure_id", "question_id")
_ANSWERS = ("model_prediction", "prediction", "answer", "response", "text")
_LABELS = {"0": "no", "1": "yes"}


def read_questions(path: Path) -> tuple[list[Item], list[str]]:
    """Return the questions that have a picture, and the keys of those that have none.

    Raises:
        FileFormatError: naming the line that is no question.
    """
    items: dict[str, Item] = {}
    blind = []
    for line, row in read_rows(path):
        key, label = key_of(row), _LABELS.get(str(row.get("gt_answer")))
        if key is None or label is None or not isinstance(row.get("question"), str):
            raise FileFormatError(path, line, f"a question needs {', '.join(PLACE)}, question and gt_answer (0 or 1)")
        if key in items:
            raise FileFormatError(path, line, f"question {key} stands here twice")
        image = row.get("filename")
        if image is not None and not isinstance(image, str):
            raise FileFormatError(path, line, f"the name of the picture is {image!r}; it must be a string or null")
        if not image:
            blind.append(key)
            continue
        category, subcategory, group, _, _ = key.split("/")
        kept = {name: str(row.get(name)) for name in ("figure_id", "question_id", "visual_input")}
        name = str(PurePosixPath(image))
        items[key] = Item(key, name, row["question"], label, f"{category}/{subcategory}/{group}", category, kept)
    if not items:
        raise FileFormatError(path, None, "holds no question with a picture")
    return list(items.values()), blind


def key_of(row: Mapping[str, Any]) -> str | None:
    """Return what tells a question from the others: category/subcategory/set/figure/question; None without it."""
    parts = [row.get(name) for name in PLACE]
    known = all(isinstance(part, str | int) and not isinstance(part, bool) and _is_plain(str(part)) for part in parts)
    return "/".join(map(str, parts)) if known else None


def _is_plain(part: str) -> bool:
    return part != "" and "/" not in part


def read_answers(path: Path) -> list[GivenAnswer]:
    """Return answers: the questions with `model_prediction`, as the official program reads them, or an lmms-eval log.

    Raises:
        FileFormatError: naming the line without an answer, or that does not say which question it answers.
    """
    found = []
    for line, row in rows_of(path):
        doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
        key = key_of(row) or key_of(doc)
        if key is None:
            raise FileFormatError(path, line, f"does not say which question it answers: {', '.join(PLACE)}")
        text = _said(row)
        if not isinstance(text, str):
            raise FileFormatError(path, line, "has no answer; it stands in `model_prediction` or `prediction`")
        asked = row.get("question", doc.get("question"))
        found.append(GivenAnswer(key, text, asked if isinstance(asked, str) else None, line=line))
    return found


def _said(row: Mapping[str, Any]) -> Any:
    value = row.get("filtered_resps") or row.get("resps")
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else next((row[name] for name in _ANSWERS if name in row), None)


def read_folder(root: Path) -> ItemFolder:
    """Return the questions and pictures of a folder that holds both.

    Raises:
        TaskError: if it holds no questions.
        FileFormatError: naming the line that is none.
    """
    path = next((place / QUESTIONS for place in (root, root / "data") if (place / QUESTIONS).is_file()), None)
    if path is None:
        raise TaskError(f"{root} holds no {QUESTIONS}: give --data a folder with it and with the pictures")
    items, _ = read_questions(path)
    folders = [folder for name in ("", "hallusion_bench", "images") if (folder := root / name).is_dir()]
    return ItemFolder(root, tuple(items), find_files((item.image for item in items), folders), tuple(folders))
