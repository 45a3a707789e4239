"""A description's nouns against an image's words, as AMBER's program compares them.

    a safe word                             neither right nor wrong
    a true word, or one associated with it  right; the true word is covered
    a hallucination target or associated    the target is marked, and what follows is tried too
    similar to a target                     the target is marked
    similar to a true word                  right; the true word is covered
    anything else                           hallucinated

Of several that match, the first counts; associated words stand before the words that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

# Words of the vocabulary that spaCy's large vectors do not hold: they are similar to nothing but themselves.
WITHOUT_VECTOR = frozenset(
    {
        *("baconic", "cathole", "closestool", "cowpea", "doghole", "electrombile", "necklet"),
        *("pissoir", "rpoe", "scoon", "seegull", "showerpuff", "waterfont"),
    }
)


@dataclass(frozen=True)
class Described:
    """What a description says of an image.

    Attributes:
        nouns: the words of the vocabulary that it names, in order, repeats kept.
        wrong: those that are hallucinated; without a table, where no two words are similar.
        spared: how many of these a table could make right at most.
        truth, targets: how many words the image has, and how many that models invent for it.
        covered: places of the true words that are named.
        marked: places of the targets that are named.
        undecided: nouns that a table could let cover a true word or mark a target more; 0 with a table.
    """

    nouns: tuple[str, ...]
    wrong: tuple[str, ...]
    spared: int
    truth: int
    targets: int
    covered: frozenset[int]
    marked: frozenset[int]
    undecided: int

    def counts(self) -> dict[str, int]:
        """Return the counts that AMBER's figures of descriptions are made of."""
        least = len(self.wrong) - self.spared
        return {
            "descriptions": 1,
            "nouns": len(self.nouns),
            "hallucinated": len(self.wrong),
            "hallucinated_least": least,
            "not_hallucinated": len(self.nouns) - len(self.wrong),
            "hallucinating": int(bool(self.wrong)),
            "hallucinating_least": int(least > 0),
            "truth": self.truth,
            "covered": len(self.covered),
            "covered_most": min(self.truth, len(self.covered) + self.undecided),
            "targets": self.targets,
            "marked": len(self.marked),
            "marked_most": min(self.targets, len(self.marked) + self.undecided),
        }


def describe(
    nouns: Sequence[str],
    truth: Sequence[str],
    targets: Sequence[str],
    relations: Mapping[str, Sequence[str]],
    safe: AbstractSet[str],
    similar: AbstractSet[tuple[str, str]] | None,
) -> Described:
    """Return what a description says.

    Args:
        nouns: of the description, those of the vocabulary alone.
        truth: the words of the image.
        targets: words that models invent for it.
        relations: word -> words associated with it.
        safe: words that are neither right nor wrong.
        similar: pairs of similar words, both ways; None where no table is at hand.
    """
    right, invented = _listed(truth, relations), _listed(targets, relations)
    covered, marked, wrong = set(), set(), []
    undecided = 0
    for noun in nouns:
        if noun in safe:
            continue
        if (place := _first(right, noun, None)) is not None:
            covered.add(place)
            continue
        marked |= {place for table in (None, similar) if (place := _first(invented, noun, table)) is not None}
        undecided += similar is None and noun not in WITHOUT_VECTOR
        if similar is not None and (place := _first(right, noun, similar)) is not None:
            covered.add(place)
        else:
            wrong.append(noun)
    spared = undecided if right else 0
    return Described(
        tuple(nouns), tuple(wrong), spared, len(truth), len(targets), frozenset(covered), frozenset(marked), undecided
    )


def _listed(words: Sequence[str], relations: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """Return (word, place of the word it belongs to): associated words first, then the words themselves."""
    associated = [(one, place) for place, word in enumerate(words) for one in relations[word]]
    return associated + [(word, place) for place, word in enumerate(words)]


def _first(listed: Sequence[tuple[str, int]], noun: str, similar: AbstractSet[tuple[str, str]] | None) -> int | None:
    """Return the place of the first word that is the noun, or is similar to it where a table is given."""
    for word, place in listed:
        if word == noun or (similar is not None and (noun, word) in similar):
            return place
    return None
