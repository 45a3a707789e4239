"""Which of AMBER's words are alike by spaCy's vectors: the table that its figures of descriptions need, made once.

    pip install spacy && python -m spacy download en_core_web_lg
    python examples/amber_similarity.py AMBER/data/relation.json similarity.json

Then `vlm-heads judge amber responses.json --data AMBER --similarity similarity.json` prints the official figures.
"""

import json
import sys
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

VECTORS, THRESHOLD = "en_core_web_lg", 0.8  # those of AMBER's program


def similar_words(words: list[str], nlp: Any) -> list[list[str]]:
    """Return the pairs of words whose similarity is above the threshold."""
    read = {word: nlp(word) for word in words}
    return [[one, other] for one, other in combinations(words, 2) if read[one].similarity(read[other]) > THRESHOLD]


def write_table(relations: Path, table: Path, nlp: Any) -> int:
    """Write the table for every word of AMBER's relations; return how many pairs are alike."""
    stated = json.loads(relations.read_text("utf-8"))
    words = sorted({*stated, *(word for others in stated.values() for word in others)})
    pairs = similar_words(words, nlp)
    made = {"vectors": f"{nlp.meta['name']} {nlp.meta['version']}", "threshold": THRESHOLD}
    table.write_text(json.dumps({**made, "words": words, "similar": pairs}), "utf-8")
    return len(pairs)


if __name__ == "__main__":
    found = write_table(Path(sys.argv[1]), Path(sys.argv[2]), import_module("spacy").load(VECTORS))
    print(f"{found} pairs of words are alike: {sys.argv[2]}")
