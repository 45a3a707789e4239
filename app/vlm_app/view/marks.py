"""Where a caption names objects, and which words of two captions differ: spans of characters."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import SequenceMatcher

from vlm_evals.text.objects import Mention, ObjectFinder
from vlm_evals.text.places import WORD, place_mentions

_PIECE = re.compile(r"\S+")


@dataclass(frozen=True)
class Named:
    """One mention of an object.

    Attributes:
        start, end: where it stands in the text.
        node: the object.
        shown: whether the picture shows it; None where nobody knows what the picture shows.
    """

    start: int
    end: int
    node: str
    shown: bool | None


class Marker:
    """Finds where texts name objects, word by word, so that a text that grows costs its new words alone."""

    def __init__(self, finder: ObjectFinder | None = None) -> None:
        self._finder = finder or ObjectFinder()
        self._known: dict[str, tuple[Mention, ...]] = {}

    def named(self, text: str, truth: Collection[str] | None) -> list[Named]:
        """Return the mentions in a text, in order.

        Args:
            text: a caption, or its beginning.
            truth: the objects that the picture shows; None where that is not known.
        """
        words = list(WORD.finditer(text))
        placed = place_mentions([self._mentions(text[: word.end()]) for word in words])
        return [
            Named(words[first].start(), words[last].end(), node, None if truth is None else node in truth)
            for first, last, node in placed
        ]

    def _mentions(self, text: str) -> tuple[Mention, ...]:
        known = self._known.get(text)
        if known is None:
            if len(self._known) > 4096:
                self._known.clear()
            known = self._known[text] = self._finder.find(text).mentions
        return known


def changed_words(text: str, other: str) -> list[tuple[int, int]]:
    """Return the spans of a text whose words the other text has not, neighbours joined; case and stops do not count."""
    mine, theirs = list(_PIECE.finditer(text)), list(_PIECE.finditer(other))
    matcher = SequenceMatcher(None, _compared(mine), _compared(theirs), autojunk=False)
    return [
        (mine[first].start(), mine[last - 1].end())
        for kind, first, last, _, _ in matcher.get_opcodes()
        if kind != "equal" and first < last
    ]


def _compared(pieces: list[re.Match[str]]) -> list[str]:
    return [piece[0].lower().strip(".,;:!?\"'") for piece in pieces]
