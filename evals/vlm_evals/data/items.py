"""Questions of a benchmark: what is asked about which picture, what belongs together, and whose answer is whose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from vlm_evals.data.formats import GivenAnswer
from vlm_evals.data.pictures import missing_pictures
from vlm_evals.errors import AnswerMismatch, FileFormatError
from vlm_evals.records import read_rows, write_rows


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a benchmark.

    Attributes:
        key: tells it from the others.
        image: the name of its picture.
        text: what is asked.
        label: the right answer; empty where there is none, as for a description.
        unit: what belongs together: an image, a pair, a set of figures. It is drawn as a whole, by `--limit` and by the
            bootstrap.
        split: the part of the benchmark it belongs to.
        facts: further fields of the benchmark.
    """

    key: str
    image: str
    text: str
    label: str
    unit: str
    split: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemFolder:
    """The questions of a benchmark, and the pictures of it that are there.

    Attributes:
        root: the folder.
        items: every question, in order.
        pictures: name of a picture -> file.
        looked_in: folders that the pictures were looked for in.
    """

    root: Path
    items: tuple[Item, ...]
    pictures: Mapping[str, Path]
    looked_in: tuple[Path, ...]

    def hashes(self) -> dict[str, str]:
        """Return the hash of the questions, whichever files they stand in."""
        rows = json.dumps([asdict(item) for item in self.items], sort_keys=True)
        return {"questions": sha256(rows.encode()).hexdigest()}

    @cached_property
    def images(self) -> dict[str, list[Path]]:
        """Unit -> its pictures, for the units whose pictures are all there."""
        names: dict[str, dict[str, None]] = {}
        for item in self.items:
            names.setdefault(item.unit, {})[item.image] = None
        whole = {unit: own for unit, own in names.items() if self.pictures.keys() >= own.keys()}
        return {unit: [self.pictures[name] for name in own] for unit, own in whole.items()}

    @property
    def shortfall(self) -> str | None:
        """How many pictures are missing and where they were looked for; None where all are there."""
        listed = list(dict.fromkeys(item.image for item in self.items))
        missing = [name for name in listed if name not in self.pictures]
        return missing_pictures(len(missing), len(listed), missing[0], self.looked_in) if missing else None


def find_files(names: Iterable[str], folders: Sequence[Path]) -> dict[str, Path]:
    """Return name -> file, for the pictures that are in one of the folders; the first that has it counts."""
    places = {name: [folder / name for folder in folders] for name in dict.fromkeys(names)}
    found = {name: next(filter(_is_there, paths), None) for name, paths in places.items()}
    return {name: path for name, path in found.items() if path is not None}


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Write questions as JSON lines."""
    write_rows(path, (asdict(item) for item in items))


def read_items(path: Path) -> list[Item]:
    """Return the questions of a file of `write_items`.

    Raises:
        FileFormatError: naming the line that is none.
    """
    items = []
    for line, row in read_rows(path):
        try:
            items.append(Item(**row))
        except TypeError as error:
            raise FileFormatError(path, line, f"is no question of a run ({error})") from error
    return items


def match(
    items: Sequence[Item],
    answers: Sequence[GivenAnswer],
    key_of: Callable[[GivenAnswer], str],
    path: Path,
    *,
    texts: bool = False,
) -> list[str]:
    """Return the answers' texts in the order of the questions.

    Args:
        items: what was asked.
        answers: what was said.
        key_of: the key of the question that an answer belongs to.
        path: of the answers, for messages.
        texts: whether an answer that carries its question must carry the text of this one.

    Raises:
        AnswerMismatch: naming the question whose answer is missing or doubled, that is not asked, or is another.
    """
    given: dict[str, GivenAnswer] = {}
    for answer in answers:
        if answer.question_id is None:
            raise AnswerMismatch(f"{path}, line {answer.line}: the answer names no question id")
        key = key_of(answer)
        if key in given:
            lines = f"{given[key].line} and {answer.line}"
            raise AnswerMismatch(f"{path}: question {key} is answered twice, in lines {lines}")
        given[key] = answer
    asked = {item.key for item in items}
    if stray := next((key for key in given if key not in asked), None):
        raise AnswerMismatch(f"{path}, line {given[stray].line}: answers question {stray}, which is not asked")
    if missing := [item.key for item in items if item.key not in given]:
        rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise AnswerMismatch(f"{path}: question {missing[0]}{rest} has no answer")
    for item in items if texts else ():
        _compare(item, given[item.key], path)
    return [given[item.key].text for item in items]


def _compare(item: Item, answer: GivenAnswer, path: Path) -> None:
    asked, wanted = (" ".join(text.split()) for text in (answer.question or "", item.text))
    if asked and wanted not in asked:
        raise AnswerMismatch(
            f"{path}, line {answer.line}: answers {asked[:60]!r} where question {item.key} is {wanted[:60]!r}"
        )
