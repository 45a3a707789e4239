"""Other labels of questions that have labels: RePOPE's corrections of POPE's, read from the files of their authors.

A question is found by its split, its image and its text, or by its id in a file that holds ids and labels alone. A
question that is not found was removed by the authors, because its right answer is ambiguous.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_evals.data.formats import Question, label_of, question_id_of, read_questions
from vlm_evals.data.pairing import same_question
from vlm_evals.data.pope_questions import STRATEGIES
from vlm_evals.data.tabular import rows_of
from vlm_evals.errors import AnswerMismatch, FileFormatError
from vlm_evals.records import Label, file_hash, image_key

LABEL_SETS: Mapping[str, str] = {  # name -> where its files come from
    "repope": "RePOPE's are in the folder annotations of its repository, YanNeu/RePOPE",
}
_SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True)
class OtherLabels:
    """The labels of one source.

    Attributes:
        name: of the source, one of `LABEL_SETS`.
        files: where the labels stand.
        by_text: (split, key of the image, question) -> label.
        by_id: (split, question id) -> label, of files that hold ids and labels alone.
    """

    name: str
    files: tuple[Path, ...]
    by_text: Mapping[tuple[str, str, str], Label]
    by_id: Mapping[tuple[str, str], Label]

    @property
    def splits(self) -> list[str]:
        """The splits that have labels, sorted."""
        return sorted({key[0] for key in (*self.by_text, *self.by_id)})

    def of(self, questions: Sequence[Question]) -> list[Label | None]:
        """Return the label of every question, in order; None for a question that was removed.

        Raises:
            AnswerMismatch: if the questions are of another split or of other images, or none of a split has a label.
        """
        self._require_splits({question.split for question in questions})
        self._require_images(questions)
        found = [self._label(question) for question in questions]
        labelled = {question.split for question, label in zip(questions, found, strict=True) if label is not None}
        for question in questions:
            if question.split not in labelled:
                raise AnswerMismatch(
                    f"{self.name} has a label for none of the questions of the split {question.split!r}, such as "
                    f"{question.text[:60]!r}: they are not the questions that were labelled"
                )
        return found

    def facts(self) -> list[dict[str, Any]]:
        """Return what a report says of each file: name, questions by label, and hash."""
        return [_edition(path) for path in self.files]

    def hashes(self) -> dict[str, str]:
        """Return file name -> SHA-256."""
        return {path.name: file_hash(path) for path in self.files}

    def _label(self, question: Question) -> Label | None:
        key = question.split, image_key(question.image), same_question(question.text)
        return self.by_text.get(key) or self.by_id.get((question.split, question.question_id))

    def _require_splits(self, asked: set[str]) -> None:
        if strange := sorted(asked - set(self.splits)):
            raise AnswerMismatch(
                f"there are questions of the split {strange[0]!r}, and {self.name} labels {', '.join(self.splits)}: "
                "name the files of questions as POPE does, coco_pope_random and so on, or give each question its split "
                "as `category`"
            )

    def _require_images(self, questions: Sequence[Question]) -> None:
        known = {(split, image) for split, image, _ in self.by_text}
        by_id = {split for split, _ in self.by_id}
        strange = [
            one for one in questions if one.split not in by_id and (one.split, image_key(one.image)) not in known
        ]
        if strange:
            raise AnswerMismatch(
                f"{len(strange)} questions are about images that {self.name} does not label, the first is question "
                f"{strange[0].question_id} ({strange[0].split}) about {strange[0].image}: it labels POPE's published "
                "questions alone; give their files with --questions"
            )


def read_labels(name: str, source: Path) -> OtherLabels:
    """Return the labels of a source.

    Args:
        name: one of `LABEL_SETS`.
        source: a folder whose files carry the name of the source in theirs, as `coco_repope_random.json`, or such a
            file.

    Raises:
        FileFormatError: if there is no such file, or it holds no labels, or two labels for one question.
    """
    files = _label_files(name, source)
    by_text: dict[tuple[str, str, str], Label] = {}
    by_id: dict[tuple[str, str], Label] = {}
    for path in files:
        for place, key, label in _labels(path):
            known: dict[Any, Label] = by_text if len(key) == 3 else by_id
            if known.setdefault(key, label) != label:
                raise FileFormatError(path, None, f"question {place} has two labels, yes and no: keep one of them")
    return OtherLabels(name, files, by_text, by_id)


def _label_files(name: str, source: Path) -> tuple[Path, ...]:
    if source.is_file():
        return (source,)
    if not source.is_dir():
        raise FileFormatError(source, None, f"there is no such folder; {LABEL_SETS[name]}")
    for folder in (source, source / "annotations"):
        found = sorted(path for path in folder.glob("*") if name in path.name.lower() and path.suffix in _SUFFIXES)
        if found:
            return tuple(found)
    wanted = f"coco_{name}_random.json"
    raise FileFormatError(source, None, f"holds no file such as {wanted}; {LABEL_SETS[name]}")


def _labels(path: Path) -> Iterator[tuple[str, tuple[str, ...], Label]]:
    """Yield (question id, key, label) of a file; the key has the image and the text where the file has them."""
    rows = list(rows_of(path))
    if any("text" in row or "question" in row for _, row in rows):
        for question in read_questions(path, _split_of(path)):
            key = question.split, image_key(question.image), same_question(question.text)
            yield question.question_id, key, question.label
        return
    for line, row in rows:
        named, label = question_id_of(row) or question_id_of(row, "id"), label_of(row.get("label"))
        if named is None or label is None:
            raise FileFormatError(path, line, "a label needs `question_id`, and `label`: yes or no")
        split = row.get("category") or row.get("split") or _split_of(path)
        yield named, (str(split), named), label
    if not rows:
        raise FileFormatError(path, None, "holds no label")


def _split_of(path: Path) -> str:
    """Return the split that a file's name states: the last of POPE's words in it, or its last word."""
    words = [word for word in re.split(r"[^a-z]+", path.stem.lower()) if word] or [path.stem]
    return next((word for word in reversed(words) if word in STRATEGIES), words[-1])


def label_files_for(answers: Sequence[Path], files: Sequence[Path]) -> list[Path]:
    """Return the files of labels that files of answers are about, in their order, where every name states its split."""
    stated = {_split_of(path): path for path in files}
    words = [set(re.split(r"[^a-z]+", path.name.lower())) & stated.keys() for path in answers]
    if any(len(found) != 1 for found in words):
        return list(files)
    return [stated[found.pop()] for found in words]


def _edition(path: Path) -> dict[str, Any]:
    labels = Counter(label for _, _, label in _labels(path))
    counted = {"questions": labels.total(), "yes": labels["yes"], "no": labels["no"]}
    return {"name": path.name, **counted, "sha256": file_hash(path)}


def said_of(name: str, questions: Iterable[Question], found: Iterable[Label | None]) -> str:
    """Return a sentence: how many questions of each split the labels leave out."""
    asked: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    for question, label in zip(questions, found, strict=True):
        asked[question.split] += 1
        removed[question.split] += label is None
    counted = ", ".join(f"{removed[split]} of {count} {split}" for split, count in asked.items())
    return f"{name} removes ambiguous questions: {counted}; its figures are of the others"
