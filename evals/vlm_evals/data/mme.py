"""MME's files: the texts its program reads, the folders of its release, and answers in LLaVA's layout.

A text has a line a question, `image <tab> question <tab> Yes or No <tab> answer`, and its name is the category.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vlm_evals.data.formats import GivenAnswer
from vlm_evals.data.items import Item, ItemFolder, find_files
from vlm_evals.errors import AnswerMismatch, FileFormatError, TaskError
from vlm_evals.records import read_text

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
HALLUCINATION = PERCEPTION[:4]
CATEGORIES = (*PERCEPTION, *COGNITION)
RELEASES = ("", "MME_Benchmark_release_version", "MME_Benchmark")
_INSTRUCTIONS = re.compile(r"answer the question using a single word or phrase\.|please answer yes or no\.", re.I)
_PICTURES = (".jpg", ".png", ".jpeg")


def texts_of(paths: Sequence[Path]) -> list[Path]:
    """Return the texts among paths; a folder stands for the categories in it, in MME's order."""
    found = [text for path in paths for text in (_texts_in(path) if path.is_dir() else [path])]
    if not found:
        raise FileFormatError(paths[0], None, "holds no text of an MME category, such as existence.txt")
    return found


def _texts_in(folder: Path) -> list[Path]:
    return [path for name in CATEGORIES if (path := folder / f"{name}.txt").is_file()]


def read_text_of(path: Path) -> tuple[list[Item], list[str]]:
    """Return the questions of a category's text, and the answers that stand beside them.

    An answer is empty where the text has none.

    Raises:
        FileFormatError: naming the line that is no question, or that has no partner about the same image.
    """
    if not path.exists():
        raise FileFormatError(path, None, "there is no such file")
    if path.suffix.lower() in (".json", ".jsonl"):
        raise FileFormatError(
            path,
            None,
            "holds no right answers beside what the model said; give MME's texts, or its release, by --questions",
        )
    if path.stem not in CATEGORIES:
        raise FileFormatError(path, None, f"is named for no category of MME: {', '.join(CATEGORIES)}")
    rows: list[tuple[str, str, str]] = []
    answers = []
    for number, line in _lines(path):
        cells = line.split("\t")
        if not 3 <= len(cells) <= 4:
            reason = f"has {len(cells)} columns; a line is the image, the question, Yes or No, and the answer"
            raise FileFormatError(path, number, reason)
        rows.append((cells[0], cells[1], _label(path, number, cells[2])))
        answers.append(cells[3] if len(cells) == 4 else "")
    return list(_paired(path, path.stem, rows)), answers


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            yield number, line


def _label(path: Path, line: int, word: str) -> str:
    label = word.strip().lower()
    if label not in ("yes", "no"):
        raise FileFormatError(path, line, f"the right answer is {word!r}; it must be Yes or No")
    return label


def _paired(path: Path, category: str, rows: Sequence[tuple[str, str, str]]) -> Iterator[Item]:
    """Yield questions whose neighbours make pairs, each about an image of its own."""
    seen: set[str] = set()
    for start in range(0, len(rows), 2):
        pair = rows[start : start + 2]
        image = pair[0][0]
        if len({name for name, _, _ in pair}) != 1 or len(pair) != 2 or image in seen:
            reason = f"MME asks two questions in a row about an image; {image} has not two (question {start + 1})"
            raise FileFormatError(path, None, reason)
        seen.add(image)
        for number, (_, question, label) in enumerate(pair, start=1):
            yield Item(f"{category}/{image}/{number}", image, question, label, f"{category}/{image}", category)


def read_release(root: Path) -> ItemFolder:
    """Return the questions and pictures of MME's release: a folder a category, texts beside or below it.

    Raises:
        TaskError: if there is no such folder.
        FileFormatError: naming the text that is none of its questions.
    """
    homes = [root / release / name for release in RELEASES for name in CATEGORIES]
    folders = {folder.name: folder for folder in reversed(homes) if folder.is_dir()}
    if not folders:
        raise TaskError(f"{root} holds no category of MME: give --data its release, with existence, count and so on")
    items: list[Item] = []
    pictures: dict[str, Path] = {}
    for name in (name for name in CATEGORIES if name in folders):
        own = list(_of_category(folders[name]))
        there = find_files((item.image for item in own), [folders[name], folders[name] / "images"])
        items += [_within(item) for item in own]
        pictures |= {f"{name}/{image}": path for image, path in there.items()}
    return ItemFolder(root, tuple(items), pictures, tuple(folders.values()))


def _within(item: Item) -> Item:
    """Return a question whose picture is named with its category, as two categories may use one name."""
    return Item(item.key, item.unit, item.text, item.label, item.unit, item.split)


def _of_category(folder: Path) -> Iterator[Item]:
    below = folder / "questions_answers_YN"
    texts = sorted((below if below.is_dir() else folder).glob("*.txt"))
    for text in texts:
        rows = []
        for number, line in _lines(text):
            question, _, word = line.rpartition("\t")
            if not question:
                raise FileFormatError(text, number, "is no question of MME: the question, a tab, Yes or No")
            rows.append((_picture(folder, text.stem), question, _label(text, number, word)))
        yield from _paired(text, folder.name, rows)


def _picture(folder: Path, stem: str) -> str:
    """Return the name of the picture that a text is about."""
    names = [f"{stem}{ending}" for ending in _PICTURES]
    there = (name for name in names if (folder / name).is_file() or (folder / "images" / name).is_file())
    return next(there, names[0])


def key_of(items: Iterable[Item], path: Path) -> dict[tuple[str, str, str], str]:
    """Return (category, image without its ending, question without its instruction) -> key.

    Raises:
        FileFormatError: if two questions cannot be told apart.
    """
    found: dict[tuple[str, str, str], str] = {}
    for item in items:
        place = item.split, Path(item.image).stem, _plain(item.text)
        if place in found:
            raise FileFormatError(path, None, f"{item.image} is asked twice {item.text!r}")
        found[place] = item.key
    return found


def key_of_answer(known: dict[tuple[str, str, str], str], answer: GivenAnswer, path: Path) -> str:
    """Return the key of the question that an answer names by `category/image` and its text.

    Raises:
        AnswerMismatch: if there is none.
    """
    parts = (answer.question_id or "").replace("\\", "/").split("/")
    key = known.get((parts[0], Path(parts[-1]).stem, _plain(answer.question or "")))
    if key is None:
        asked = (answer.question or "").split("\n")[0]
        raise AnswerMismatch(
            f"{path}, line {answer.line}: no question of MME about {answer.question_id} is {asked!r}; an answer needs "
            "`question_id` (category/image) and `prompt`"
        )
    return key


def _plain(question: str) -> str:
    return " ".join(_INSTRUCTIONS.sub(" ", question).split())
