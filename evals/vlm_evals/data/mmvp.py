"""MMVP's questions, two a pair of pictures, and answers to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_evals.data.formats import GivenAnswer
from vlm_evals.data.items import Item, ItemFolder, find_files
from vlm_evals.data.tabular import rows_of
from vlm_evals.errors import FileFormatError, TaskError

QUESTIONS = "Questions.csv"
# Pairs whose two answers are the wrong way round in the published file, as MMVP's users found and lmms-eval mends them.
MENDED = {"99": "B", "100": "A", "279": "B", "280": "A"}
_CHOICE = re.compile(r"\(([a-z])\)\s*(.*?)\s*(?=\([a-z]\)|$)", re.IGNORECASE | re.DOTALL)
_ANSWERS = ("response", "model_prediction", "prediction", "output", "text")


def read_questions(path: Path, *, mended: bool = False) -> list[Item]:
    """Return the questions of `Questions.csv`: Index, Question, Options, Correct Answer.

    Args:
        path: the table, or JSON lines with the same names.
        mended: whether the four labels that are wrong in the published file are put right.

    Raises:
        FileFormatError: naming the line that is no question, or an index without its partner.
    """
    items: dict[str, Item] = {}
    for line, row in rows_of(path):
        index, text = str(row.get("Index", "")).strip(), row.get("Question")
        options = {letter.upper(): words for letter, words in _CHOICE.findall(str(row.get("Options", "")))}
        label = str(row.get("Correct Answer", "")).strip().strip("()").upper()
        if not index.isdecimal() or not isinstance(text, str) or set(options) != {"A", "B"} or label not in options:
            raise FileFormatError(path, line, "a question needs Index, Question, Options (a) and (b), Correct Answer")
        if index in items:
            raise FileFormatError(path, line, f"question {index} stands here twice")
        label = MENDED.get(index, label) if mended else label
        asked = f"{text.strip()}\n" + "\n".join(f"({letter.lower()}) {words}" for letter, words in options.items())
        pair = f"pair {(int(index) + 1) // 2}"
        items[index] = Item(index, f"{index}.jpg", asked, label, pair, "", {"options": options})
    sizes: dict[str, list[str]] = {}
    for item in items.values():
        sizes.setdefault(item.unit, []).append(item.key)
    if single := next((keys[0] for keys in sizes.values() if len(keys) != 2), None):
        raise FileFormatError(
            path, None, f"question {single} has no partner: MMVP's questions 1 and 2, 3 and 4 are pairs"
        )
    if not items:
        raise FileFormatError(path, None, "holds no question")
    return list(items.values())


def read_answers(path: Path) -> list[GivenAnswer]:
    """Return answers: `question_id` and `response`, as MMVP's program writes them, or an lmms-eval log.

    Raises:
        FileFormatError: naming the line without an answer or without its question.
    """
    found = []
    for line, row in rows_of(path):
        doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
        index = next(
            (place[key] for place in (row, doc) for key in ("question_id", "Index", "index") if key in place), None
        )
        text = _said(row)
        if not isinstance(index, int | str) or not isinstance(text, str):
            raise FileFormatError(path, line, "an answer needs `question_id` and `response`")
        found.append(GivenAnswer(str(index), text, line=line))
    return found


def _said(row: Mapping[str, Any]) -> Any:
    value = row.get("filtered_resps") or row.get("resps")
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else next((row[name] for name in _ANSWERS if name in row), None)


def read_folder(root: Path) -> ItemFolder:
    """Return the questions and pictures of MMVP's folder.

    Raises:
        TaskError: if it holds no questions.
    """
    path = root / QUESTIONS
    if not path.is_file():
        raise TaskError(f"{root} holds no {QUESTIONS}: give --data MMVP's folder, with it and `MMVP Images`")
    items = read_questions(path)
    folders = [place for name in ("MMVP Images", "images", "") if (place := root / name).is_dir()]
    return ItemFolder(root, tuple(items), find_files((item.image for item in items), folders), tuple(folders))
