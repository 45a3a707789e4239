"""Words -> parts of speech: exactly what nltk's averaged perceptron says, and more than ten times as fast.

A part of speech is the class with the largest sum of weights over fourteen features of a word and its neighbours. The
published weights are multiples of 1/1000, and integers here. The weights of one feature for all classes stand side by
side in one long integer, a lane each:

    lanes(feature) = sum over classes c of weight(feature, c) · 2^(32 · place of c)

Adding two such integers adds all lanes at once, and a bias of 2^30 a lane keeps every sum positive. What a word adds by
itself, as the word before, and so on, is remembered. nltk adds floating-point numbers: where two classes have the same
exact sum, its roundings decide, and only there the sum is made again in its way and order.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vlm_evals.errors import FileFormatError
from vlm_evals.records import read_json
from vlm_evals.text.language import tagger_folder
from vlm_evals.text.words import Memory

_LANE = 32  # bits of a class
_MIDDLE = 1 << 30  # added to every lane
_SCALE = 1000  # weights are multiples of its inverse
_LARGEST = 1 << 25  # of a weight: fourteen of them fit between the ends of a lane
START, END = ("-START-", "-START2-"), ("-END-", "-END2-")


class _Word(NamedTuple):
    """What a word adds to a sum: by itself, one and two places before, one and two places after."""

    here: int
    left: int
    left2: int
    right: int
    right2: int


class Tagger:
    """An averaged perceptron with nltk's features.

    Args:
        weights: feature -> class -> weight, a multiple of 1/1000.
        known: word -> its only class; such a word is not looked at further.
        classes: all classes.

    Raises:
        ValueError: if a weight is too large or no multiple of 1/1000.
    """

    def __init__(
        self, weights: Mapping[str, Mapping[str, float]], known: Mapping[str, str], classes: Collection[str]
    ) -> None:
        self._weights = weights
        self._known = known
        self._classes = sorted(classes)
        self._places = {name: place for place, name in enumerate(self._classes)}
        self._bytes = _LANE // 8 * len(self._classes)
        self._start = sum(_MIDDLE << _LANE * place for place in range(len(self._classes)))
        self._words = Memory()
        self._tags: dict[tuple[str, str], int] = {}
        self._beside = Memory()
        self._start += self._lanes("bias")

    @classmethod
    def read(cls, folder: Path) -> Tagger:
        """Return the tagger of a folder as NLTK keeps it.

        Raises:
            FileFormatError: if a file of the folder is missing or is not what it should be.
        """
        named = (folder / f"{folder.name}.{part}.json" for part in ("weights", "tagdict", "classes"))
        weights, known, classes = map(read_json, named)
        try:
            return cls(weights, known, classes)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise FileFormatError(folder, None, f"cannot be read as NLTK's tagger ({error})") from error

    def tag(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """Return every word of a sequence with its part of speech."""
        return list(zip(words, self.tags(words), strict=True))

    def tags(self, words: Sequence[str]) -> list[str]:
        """Return the part of speech of every word of a sequence."""
        return self.tags_where(words, range(len(words)))

    def tags_where(self, words: Sequence[str], wanted: Sequence[int]) -> list[str]:
        """Return the parts of speech of the words at some places, in rising order.

        A part of speech rests on the two before it. So the words before a wanted one are tagged too, back to the last
        two in a row that have a single class.
        """
        known = self._known.get
        found: list[str | None] = list(map(known, words))
        context = [*START, *map(normalised, words), *END]
        done = 0  # every word before is tagged, or no wanted word rests on it
        for place in wanted:
            if found[place]:
                continue
            first = place
            while first > done and not ((found[first - 1]) and (first < 2 or found[first - 2])):
                first -= 1
            for index in range(first, place + 1):
                if not found[index]:
                    before = found[index - 1] if index else START[0]
                    before2 = found[index - 2] if index > 1 else START[1 - index]
                    found[index] = self._best(words[index], context, index + 2, before or "", before2 or "")
            done = place + 1
        return [found[place] or "" for place in wanted]

    def _best(self, word: str, context: Sequence[str], place: int, before: str, before2: str) -> str:
        """Return the class with the largest sum.

        Args:
            word: as it stands.
            context: all words, normalised, with the marks of start and end.
            place: of the word in the context.
            before, before2: parts of speech of the words before.
        """
        own = context[place]
        words = self._words
        total = self._start + (words.get((word, own)) or self._word(word, own)).here
        for offset, part in ((-1, 1), (-2, 2), (1, 3), (2, 4)):
            other = context[place + offset]
            total += (words.get((other, other)) or self._word(other, other))[part]
        total += self._pair(before, before2) + self._with_tag(before, own)
        lanes = memoryview(total.to_bytes(self._bytes, "little")).cast("I").tolist()
        most = max(lanes)
        if lanes.count(most) > 1:
            return self._rounded(features(word, context, place, before, before2))
        return self._classes[lanes.index(most)]

    def _word(self, word: str, own: str) -> _Word:
        """Return what a word adds, from the table or made for it.

        Args:
            word: as it stands.
            own: normalised; both are the same where it is a neighbour.
        """
        sums = _Word(
            self._lanes(f"i suffix {word[-3:]}") + self._lanes(f"i pref1 {word[:1]}") + self._lanes(f"i word {own}"),
            self._lanes(f"i-1 word {own}") + self._lanes(f"i-1 suffix {own[-3:]}"),
            self._lanes(f"i-2 word {own}"),
            self._lanes(f"i+1 word {own}") + self._lanes(f"i+1 suffix {own[-3:]}"),
            self._lanes(f"i+2 word {own}"),
        )
        self._words.keep((word, own), sums)
        return sums

    def _pair(self, before: str, before2: str) -> int:
        """Return what the two parts of speech before add."""
        key = before, before2
        if key not in self._tags:
            names = f"i-1 tag {before}", f"i-2 tag {before2}", f"i tag+i-2 tag {before} {before2}"
            self._tags[key] = sum(map(self._lanes, names))
        return self._tags[key]

    def _with_tag(self, before: str, own: str) -> int:
        """Return what a word adds behind a part of speech."""
        key = before, own
        known: int | None = self._beside.get(key)
        if known is None:
            known = self._lanes(f"i-1 tag+i word {before} {own}")
            self._beside.keep(key, known)
        return known

    def _lanes(self, feature: str) -> int:
        """Return the weights of a feature for all classes as one integer.

        Raises:
            ValueError: if a weight is too large or no multiple of 1/1000.
        """
        sums = 0
        for name, weight in self._weights.get(feature, {}).items():
            whole = round(weight * _SCALE)
            if abs(whole) >= _LARGEST or whole / _SCALE != weight:
                raise ValueError(f"the weight {weight!r} of {feature!r} is no multiple of 1/{_SCALE}, or too large")
            sums += whole << _LANE * self._places[name]
        return sums

    def _rounded(self, found: Sequence[str]) -> str:
        """Return the class as nltk sums it, in floating point and in the order of the features."""
        sums = dict.fromkeys(self._classes, 0.0)
        for feature in found:
            for name, weight in self._weights.get(feature, {}).items():
                sums[name] += weight
        return max(self._classes, key=lambda name: (sums[name], name))


def normalised(word: str) -> str:
    """Return a word as features name it: hyphenated words, years and other numbers are one word each."""
    if "-" in word and word[0] != "-":
        return "!HYPHEN"
    if word.isdigit() and len(word) == 4:
        return "!YEAR"
    return "!DIGITS" if word[:1].isdigit() else word.lower()


def features(word: str, context: Sequence[str], place: int, before: str, before2: str) -> tuple[str, ...]:
    """Return the features of a word in nltk's order; see `Tagger._best` for the arguments."""
    left2, left, own, right, right2 = context[place - 2 : place + 3]
    return (
        "bias",
        f"i suffix {word[-3:]}",
        f"i pref1 {word[:1]}",
        f"i-1 tag {before}",
        f"i-2 tag {before2}",
        f"i tag+i-2 tag {before} {before2}",
        f"i word {own}",
        f"i-1 tag+i word {before} {own}",
        f"i-1 word {left}",
        f"i-1 suffix {left[-3:]}",
        f"i-2 word {left2}",
        f"i+1 word {right}",
        f"i+1 suffix {right[-3:]}",
        f"i+2 word {right2}",
    )


@functools.cache
def tagger() -> Tagger:
    """Return NLTK's English tagger.

    Raises:
        MissingLanguageData: if its weights are not on this machine.
        FileFormatError: if they cannot be read.
    """
    return Tagger.read(tagger_folder())
