"""The vocabulary "corrected": CHAIR's text pipeline with its known defects mended, under a name of its own.

Published numbers rest on the defects, so this is never the default and never mixed with "published". It mends:

- words that the singulariser loses (bus, minibus, airbus, ties, tennis, sports, regular plurals it does not know),
- words that can never match (motor bike, cheesecake, iPhone), and two-word names that never join (tennis racket, sports
  ball),
- words that fire in another sense (orange, remote, sub, turkey, seat),
- negation, and words joined by a hyphen or a slash.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_JOINTS = re.compile(r"[-/]")
_OTHER_SENSE = "~"  # ends the base form of a word that stands for something else here
REACH = 3  # words looked back over for a negation


class Corrections:
    """What the corrected vocabulary does beyond the published one.

    Args:
        stated: the section `corrected` of the vocabulary file.
        words: every single word that stands for an object or is part of a two-word name.
        singular: surface form -> base form, as published.
    """

    def __init__(self, stated: Mapping[str, Any], words: set[str], singular: Mapping[str, str]) -> None:
        lists = {name: frozenset(entry.split()) for name, entry in stated["words"].items()}
        self._follows_noun = lists["after_a_noun"]
        self._colours = lists["colours"]
        self._before_adjective = lists["before_an_adjective"]
        self._negations = lists["negations"]
        self._within_negations = lists["within_negations"]
        self._resemblances = lists["resemblances"]
        self._senses = stated["senses"]
        plurals = {plural: word for word in words for plural in _plurals(word)}
        kept = {word: word for word in words if singular.get(word, word) not in words}
        self._base = plurals | dict(singular) | kept

    def part(self, words: Sequence[str]) -> list[str]:
        """Return the words with those joined by hyphens or slashes apart; a resemblance stays one word."""
        parted: list[str] = []
        for word in words:
            parts = [part for part in _JOINTS.split(word) if part]
            resembles = len(parts) > 1 and parts[-1] in self._resemblances
            parted += [word] if resembles or len(parts) < 2 else parts
        return parted

    def base(self, words: Sequence[str]) -> list[str]:
        """Return base forms; a word in another sense gets one that stands for nothing."""
        return [
            self._base.get(word, word) + (_OTHER_SENSE if self._other_sense(words, index) else "")
            for index, word in enumerate(words)
        ]

    def _other_sense(self, words: Sequence[str], index: int) -> bool:
        sense = self._senses.get(words[index])
        if sense is None:
            return False
        before = words[index - 1] if index else ""
        after = words[index + 1] if index + 1 < len(words) else ""
        if after in sense.get("counts_before", "").split():
            return False
        if not sense.get("alone", True):
            return True
        if before in sense.get("not_after", "").split() or after in sense.get("not_before", "").split():
            return True
        return bool(sense.get("adjective")) and self._is_adjective(words, index, before, after)

    def _is_adjective(self, words: Sequence[str], index: int, before: str, after: str) -> bool:
        """Return whether a word that can be a noun or an adjective is the adjective here."""
        if before in self._before_adjective:
            return True
        if after in ("and", "or") and index + 2 < len(words):
            return words[index + 2] in self._colours
        if not after.isalpha() or after in self._follows_noun:
            return False
        return not after.endswith(("ing", "ed"))

    def denied(self, tokens: Sequence[str], index: int) -> bool:
        """Return whether the object at an index is said not to be there."""
        for token in reversed(tokens[max(index - REACH, 0) : index]):
            if token in self._negations:
                return True
            if token not in self._within_negations:
                return False
        return False


def _plurals(word: str) -> list[str]:
    if word.endswith(("s", "x", "ch", "sh")):
        return [word + "es"]
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return [word[:-1] + "ies"]
    return [word + "s"]
