"""The table of similar words, made with vectors of two numbers in place of spaCy's."""

import json
from pathlib import Path

from vlm_evals.data.amber import read_similar

from examples.amber_similarity import write_table

ANGLES = {"car": (1.0, 0.0), "truck": (0.9, 0.1), "dog": (0.0, 1.0), "scoon": (0.0, 0.0)}


class Word:
    """A word with a vector; one without is similar to nothing."""

    def __init__(self, word: str) -> None:
        self.vector = ANGLES[word]

    def similarity(self, other: "Word") -> float:
        lengths = [sum(part * part for part in one.vector) ** 0.5 for one in (self, other)]
        dot = sum(here * there for here, there in zip(self.vector, other.vector, strict=True))
        return dot / (lengths[0] * lengths[1]) if all(lengths) else 0.0


class Words:
    """What spaCy's `load` returns, as far as the program uses it."""

    def __init__(self) -> None:
        self.meta = {"name": "two_numbers", "version": "1"}

    def __call__(self, word: str) -> Word:
        return Word(word)


def test_the_table_is_read_where_descriptions_are_scored(tmp_path: Path) -> None:
    relations, table = tmp_path / "relation.json", tmp_path / "similarity.json"
    relations.write_text(json.dumps({"car": ["truck"], "dog": ["scoon"]}), "utf-8")
    assert write_table(relations, table, Words()) == 1
    assert json.loads(table.read_text("utf-8"))["vectors"] == "two_numbers 1"
    assert read_similar(table, frozenset(ANGLES)) == {("car", "truck"), ("truck", "car")}
