"""AMBER's files: annotations, queries, relations between words, safe words, responses, and a table of similar words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_evals.data.formats import GivenAnswer
from vlm_evals.data.items import Item, ItemFolder, find_files
from vlm_evals.errors import FileFormatError, TaskError
from vlm_evals.records import file_hash, read_json, read_rows, read_text, write_json

DESCRIPTION = "description"
SPLITS = {
    "generative": DESCRIPTION,
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
ATTRIBUTES = ("state", "number", "action")
FILES = ("annotations.json", "query_all.json", "relation.json", "safe_words.txt")
SIMILARITY = "similarity.json"


@dataclass(frozen=True)
class Lexicon:
    """The words that descriptions are scored with.

    Attributes:
        relations: word -> words associated with it.
        safe: words that are neither right nor wrong.
        similar: pairs of similar words, both ways; None where no table of them is at hand.
    """

    relations: Mapping[str, Sequence[str]]
    safe: frozenset[str]
    similar: frozenset[tuple[str, str]] | None = None

    @property
    def words(self) -> frozenset[str]:
        """Every word that a description is searched for."""
        return frozenset(self.relations) | {word for words in self.relations.values() for word in words}

    def save(self, path: Path) -> None:
        """Write the words as JSON."""
        similar = None if self.similar is None else sorted(map(list, self.similar))
        write_json(path, {"relations": dict(self.relations), "safe": sorted(self.safe), "similar": similar})

    @classmethod
    def load(cls, path: Path) -> Lexicon:
        """Return words that were saved.

        Raises:
            FileFormatError: if the file holds none.
        """
        found = read_json(path)
        try:
            similar = None if found["similar"] is None else frozenset((one, other) for one, other in found["similar"])
            return cls(_relations(path, found["relations"]), frozenset(found["safe"]), similar)
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(path, None, f"holds no words of AMBER ({error!r})") from error


@dataclass(frozen=True)
class AmberFolder(ItemFolder):
    """AMBER's questions and pictures, with the words that its descriptions are scored with."""

    lexicon: Lexicon = field(default_factory=lambda: Lexicon({}, frozenset()))
    files: Mapping[str, Path] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """Return the hashes of the questions and of the files of words."""
        words = {name: file_hash(path) for name, path in self.files.items() if name not in FILES[:2]}
        return super().hashes() | words


def read_folder(root: Path, similarity: Path | None = None) -> AmberFolder:
    """Return AMBER's files, wherever in its folder they lie, with the pictures that are there.

    Args:
        root: AMBER's repository, its folder `data`, or a folder with the four files.
        similarity: a table of similar words; by default `similarity.json` in the folder, where there is one.

    Raises:
        TaskError: naming a file that is missing.
        FileFormatError: naming a file that is not what it should be.
    """
    places = [place for name in ("", "data", "query", "data/query") if (place := root / name).is_dir()]
    files = {name: _found(root, places, name) for name in FILES}
    table = similarity or next((path for place in places if (path := place / SIMILARITY).is_file()), None)
    if table is not None:
        files[SIMILARITY] = table
    relations = _relations(files["relation.json"], read_json(files["relation.json"]))
    safe = frozenset(line.strip() for line in read_text(files["safe_words.txt"]).split("\n") if line.strip())
    lexicon = Lexicon(relations, safe)
    if table is not None:
        lexicon = Lexicon(relations, safe, read_similar(table, lexicon.words))
    items = _items(files["annotations.json"], files["query_all.json"], relations)
    folders = [place for name in ("", "image", "images", "data/image") if (place := root / name).is_dir()]
    pictures = find_files((item.image for item in items), folders)
    return AmberFolder(root, tuple(items), pictures, tuple(folders), lexicon, files)


def _found(root: Path, places: Sequence[Path], name: str) -> Path:
    path = next((place / name for place in places if (place / name).is_file()), None)
    if path is None:
        raise TaskError(f"{root} holds no {name}: give the folder `data` of AMBER's repository, or the repository")
    return path


def _relations(path: Path, value: Any) -> dict[str, list[str]]:
    if not isinstance(value, dict) or not all(_is_words(words) for words in value.values()):
        raise FileFormatError(path, None, "is no table of relations: word -> words associated with it")
    return value


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def read_similar(path: Path, words: frozenset[str]) -> frozenset[tuple[str, str]]:
    """Return the pairs of a table of similar words, both ways.

    Raises:
        FileFormatError: if it is none, or was made of other words.
    """
    value = read_json(path)
    pairs = value.get("similar") if isinstance(value, dict) else None
    known = value.get("words") if isinstance(value, dict) else None
    if (
        not isinstance(pairs, list)
        or not _is_words(known)
        or not all(_is_words(one) and len(one) == 2 for one in pairs)
    ):
        reason = "is no table of similar words: `words`, and `similar`, a list of pairs"
        raise FileFormatError(path, None, reason)
    if lacking := sorted(words - set(known or ())):
        raise FileFormatError(path, None, f"was made without {len(lacking)} of the words, such as {lacking[0]!r}")
    return frozenset(pair for one, other in pairs for pair in ((one, other), (other, one)))


def _items(annotations: Path, queries: Path, relations: Mapping[str, Sequence[str]]) -> list[Item]:
    asked = {str(row.get("id")): (line, row) for line, row in read_rows(queries)}
    items = []
    for line, row in read_rows(annotations):
        place, query = asked.get(str(row.get("id")), (0, {}))
        split, text, image = SPLITS.get(str(row.get("type"))), query.get("query"), query.get("image")
        if split is None or type(row.get("id")) is not int:
            raise FileFormatError(annotations, line, "is no annotation of AMBER: it needs `id`, `type` and `truth`")
        if not isinstance(text, str) or not isinstance(image, str):
            raise FileFormatError(queries, place or None, f"has no query and image for id {row['id']}")
        label, facts = _truth(annotations, line, row, split, relations)
        items.append(Item(str(row["id"]), image, text, label, image, split, facts))
    if len({item.key for item in items}) != len(items) or not items:
        raise FileFormatError(annotations, None, "holds no annotation, or an id twice")
    return items


def _truth(
    path: Path, line: int, row: Mapping[str, Any], split: str, relations: Mapping[str, Sequence[str]]
) -> tuple[str, dict[str, Any]]:
    """Return the right answer of a question, or the words of an image."""
    truth, targets = row.get("truth"), row.get("hallu")
    if split != DESCRIPTION:
        if truth not in ("yes", "no"):
            raise FileFormatError(path, line, f"the right answer is {truth!r}; it must be yes or no")
        return str(truth), {}
    if not _is_words(truth) or not _is_words(targets):
        raise FileFormatError(path, line, "a description needs `truth` and `hallu`, both lists of words")
    if unknown := [word for word in (*(truth or ()), *(targets or ())) if word not in relations]:
        raise FileFormatError(path, line, f"the word {unknown[0]!r} has no entry in the relations")
    return "", {"truth": truth, "targets": targets}


def read_responses(path: Path) -> list[GivenAnswer]:
    """Return responses: a list of `id` and `response`.

    Raises:
        FileFormatError: naming the line that is none.
    """
    found = []
    for line, row in read_rows(path):
        if not isinstance(row.get("response"), str) or not isinstance(row.get("id"), int | str):
            given = ", ".join(list(row)[:6]) or "no fields"
            raise FileFormatError(path, line, f"a response needs `id` and `response`; the object has {given}")
        found.append(GivenAnswer(str(row["id"]), row["response"], line=line))
    if not found:
        raise FileFormatError(path, None, "holds no response")
    return found
