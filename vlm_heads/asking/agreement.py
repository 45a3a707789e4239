"""One or many: whether a phrase is plural, and the verb and the article that go with it."""

from __future__ import annotations

import re

from vlm_heads.asking.grammar import (
    MODALS,
    NUMBERS,
    PREPOSITIONS,
    QUANTITIES,
    RELATIVES,
    SINGULAR,
    VERBS,
    is_determiner,
    pieces_of,
    words_of,
)

_ONE = frozenset(["a", "an", "one", "another", "each", "every", "this", "that"])
_MANY = NUMBERS | frozenset(["some", "several", "many", "few", "various", "multiple", "numerous", "these", "those"])
# `a few cups are`, `a lot of cups are`; a group and a pair may be one
_MANY_WITH_A = frozenset(["few", "couple", "lot", "number", "variety", "handful", "dozen", "hundred", "thousand"])
_IRREGULAR = frozenset(["people", "children", "mice", "geese", "sheep", "feet", "teeth"])
_SHARED = frozenset(["the", "his", "her", "its", "their", "our", "my", "some", "this", "that", "these", "those"])
_THERE = re.compile(r"\b(?:there|here)\s+(is|are|was|were)\s+", re.IGNORECASE)
_PLURAL = {one: many for many, one in SINGULAR.items()}


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase, and what may follow it, stands for more than one."""
    words = words_of(phrase)
    if not words:
        return False
    if words[0] in _ONE:
        return not _MANY_WITH_A.isdisjoint(words[1:3])
    if words[0] in _MANY or words[0] == "lots" or (is_determiner(words[0]) and words[0][0].isdigit()):
        return words[0] not in ("1", "some") or _is_plural_noun(_head(words))
    return _is_plural_noun(_head(words))


def _head(words: list[str]) -> str:
    """Return the noun of a phrase: the last word before what belongs to it."""
    for at, word in enumerate(words[1:], start=1):
        participle = at > 1 and word.endswith(("ing", "ed"))
        if participle or word in PREPOSITIONS | RELATIVES | VERBS | {"of"} or not word[0].isalnum():
            return words[at - 1]
    return words[-1]


def _is_plural_noun(word: str) -> bool:
    return word in _IRREGULAR or word.endswith("men") or (word.endswith("s") and not word.endswith(("ss", "us", "is")))


def with_determiner_of(first: str, second: str) -> str:
    """Return the second item of a list so that it can be the first: with the article that only the first had."""
    shared, own = words_of(first)[0], words_of(second)[0]
    if is_determiner(own) or own in QUANTITIES:
        return second
    if shared in _SHARED:
        return f"{shared} {second}"
    if shared not in ("a", "an") or is_plural(second):
        return second
    return f"{'an' if second[:1].lower() in 'aeiou' else 'a'} {second}"


def there_agreeing(joined: str, several: bool) -> str:
    """Return the beginning of a sentence with its last `there is` or `there are` as the list behind it wants it.

    Args:
        joined: the sentence up to the end of the list.
        several: whether the list has more than one item.
    """
    found = list(_THERE.finditer(joined))
    if not found:
        return joined
    verb, behind = found[-1][1].lower(), joined[found[-1].end() :]
    pieces = pieces_of(behind, len(behind))
    if len(pieces) > 1 and not several:  # it stands in another clause
        return joined
    many = is_plural(behind[: pieces[0].end])
    right = _PLURAL.get(verb, verb) if many else verb if several else SINGULAR.get(verb, verb)
    return f"{joined[: found[-1].start(1)]}{right}{joined[found[-1].end(1) :]}" if right != verb else joined


def verb_agreeing(phrase: str, rest: str) -> str | None:
    """Return what a sentence says about a list of which one phrase is left; None where the verb's form is not sure.

    Args:
        phrase: that is left.
        rest: what follows it, from the verb on.
    """
    verb = words_of(rest)[0]
    if verb in MODALS or verb in _PLURAL or is_plural(phrase):
        return rest
    return rest.replace(verb, SINGULAR[verb], 1) if verb in SINGULAR else None
