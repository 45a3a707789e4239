"""What little grammar it takes to leave a phrase out: word lists, noun phrases, and a sentence cut at its commas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlm_heads.asking.named import Named


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBERS = _words(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand dozen dozens hundreds thousands "
    "both"
)
DETERMINERS = NUMBERS | _words(
    "a an the some several many few another one various multiple numerous other his her its their this that these "
    "those each every any no more"
)
QUANTITIES = _words(
    "pair pairs couple group groups number bunch lot lots variety set piece pieces slice slices row rows"
)
PREPOSITIONS = _words(
    "with on in at near by beside behind under underneath below above over around against inside outside beneath "
    "between among along across through from onto upon within without beyond including containing featuring atop"
)
# words before a preposition that go with it: next to, in front of, on top of
_LONGER = (
    "next to", "in front of", "on top of", "close to", "to the left of", "to the right of", "on the left of",
    "on the right of", "on the side of", "along with", "together with", "accompanied by", "surrounded by",
    "filled with", "at the top of", "at the bottom of", "in the middle of", "at the end of", "such as",
)  # fmt: skip
LONGER = tuple(tuple(one.split()) for one in sorted(_LONGER, key=len, reverse=True))
SINGULAR = {"are": "is", "were": "was", "have": "has"}
MODALS = _words("can could will would may might must did had")  # the same for one and for many
VERBS = _words(
    "is are was were be has have had can could will would may might must do does did shows show showed features feature"
    " includes include contains contain sits sit stands stand lies lie rests rest hangs hang looks look appears appear"
    " seems seem sees see find finds holds hold wears wear rides ride walks walk plays play eats eat runs run depicts"
    " captures displays consists adds add makes make gives give watches watch waits wait carries carry serves serve"
)
RELATIVES = _words("that which who whose where while")
SUBJECTS = _words("there it he she they we you i one someone")
SUBORDINATES = _words("if when while whereas although though as because since unless until once after before")
_NO_ADJECTIVES = VERBS | PREPOSITIONS | QUANTITIES | RELATIVES | SUBJECTS | _words("and or of")
DANGLING = (
    DETERMINERS
    | PREPOSITIONS
    | set(SINGULAR)
    | set(SINGULAR.values())
    | _words("and or of to there be being as no not")
)
# what cannot stand without the `of` behind it
_WANTS_OF = (
    QUANTITIES | VERBS | _words("side sides front top back full middle center centre edge end bottom left right")
)
_WANTS_OF |= _words("made instead because out image picture photo view shot lots kind type")
_MOST_WORDS = 4  # of a phrase before its noun, joined adjectives not counted
_TOKEN = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
_JOINT = re.compile(r"\s*,?\s+(?:and also|as well as|along with|and|or|plus)\s+|\s*[,;]\s+", re.IGNORECASE)
# adjectives that are joined before one noun: `a black and white dog`, `a red, white and blue flag`
_COMMON = (
    "black|white|brown|red|blue|green|yellow|orange|gr[ae]y|pink|purple|tan|silver|gold|golden|beige|maroon|dark|light"
    "|bright|large|small|big|little|old|young|tall|short|thin|long|round|wooden|metal|plastic|striped|spotted|fluffy"
)
_JOINED = re.compile(
    rf"\b(?:{_COMMON})(?:(?:\s*,\s*(?:and\s+)?|\s+(?:and|or)\s+)(?:{_COMMON}))+\s+(?=(\w+))", re.IGNORECASE
)


@dataclass(frozen=True)
class Piece:
    """A stretch of a sentence between commas and conjunctions.

    Attributes:
        start, end: in the sentence.
        joint: what stands before it, as `, ` or ` and `; empty before the first.
    """

    start: int
    end: int
    joint: str


def pieces_of(sentence: str, end: int, named: Sequence[Named] = ()) -> list[Piece]:
    """Return a sentence cut at its commas and conjunctions.

    Args:
        sentence: a whole one.
        end: where its closing mark begins.
        named: spans that are never cut, as `salt and pepper shaker`; nor is `black and white dog`.
    """
    found, start, joint = [], 0, ""
    whole = [*((one.start, one.end) for one in named), *_joined_adjectives(sentence)]
    for match in _JOINT.finditer(sentence, 0, end):
        if match.end() < end and not any(first < match.start() and match.end() <= last for first, last in whole):
            found.append(Piece(start, match.start(), joint))
            start, joint = match.end(), match[0]
    return [*found, Piece(start, end, joint)]


def _joined_adjectives(text: str) -> list[tuple[int, int]]:
    """Return where adjectives stand that are joined before one noun."""
    no_noun = _NO_ADJECTIVES | DETERMINERS
    return [found.span() for found in _JOINED.finditer(text) if found[1].lower() not in no_noun]


def is_determiner(word: str) -> bool:
    """Whether a word in small letters goes with the noun behind it: an article, a number, `some`."""
    return word in DETERMINERS or word[0].isdigit() or not NUMBERS.isdisjoint(word.split("-"))


def words_of(text: str) -> list[str]:
    """Return the words and marks of a text in small letters."""
    return [word.lower() for word in _TOKEN.findall(text)]


def has_verb(text: str) -> bool:
    """Whether a text holds a word that is known to be a verb of a clause."""
    return not VERBS.isdisjoint(words_of(text))


def is_modifier(text: str) -> bool:
    """Whether a text can follow a noun and belong to it: nothing, a preposition's phrase, a participle, a relative."""
    words = words_of(text)
    return not words or words[0] in PREPOSITIONS | RELATIVES | {"of", "next"} or words[0].endswith(("ing", "ed"))


def phrase_start(text: str, start: int, floor: int = 0) -> int:
    """Return where the noun phrase begins whose noun begins at `start`: before its adjectives and its determiner.

    Args:
        text: a sentence.
        start: of the noun.
        floor: the phrase begins here at the earliest.
    """
    before = list(_TOKEN.finditer(text, floor, start))
    joined = _joined_adjectives(text)
    place, passed = len(before), 0
    for at in reversed(range(len(before))):
        word = before[at][0].lower()
        if any(first <= before[at].start() < last for first, last in joined):
            place = at
            continue
        passed += 1
        if is_determiner(word):
            place = at
        if passed == _MOST_WORDS or is_determiner(word) or not word[0].isalpha() or word in _NO_ADJECTIVES:
            break
    place = _with_quantity(before, place)
    while place > 0 and is_determiner(before[place - 1][0].lower()):
        place -= 1
    return before[place].start() if place < len(before) else start


def _with_quantity(before: list[re.Match[str]], place: int) -> int:
    """Return the place before `a pair of`, where that stands before the phrase."""
    words = [match[0].lower() for match in before[:place]]
    if len(words) >= 2 and words[-1] == "of" and words[-2] in QUANTITIES:
        place -= 2
        if len(words) >= 3 and is_determiner(words[-3]):
            place -= 1
    return place


def starts_with_phrase(text: str, named: Sequence[Named], offset: int) -> int | None:
    """Return where the noun phrase ends that a text begins with; None where it begins with none.

    Args:
        text: a piece of a sentence.
        named: the objects named in the sentence.
        offset: of the piece in the sentence.
    """
    inside = [one for one in named if offset <= one.start and one.end <= offset + len(text)]
    for one in inside:
        if phrase_start(text, one.start - offset) == len(text) - len(text.lstrip()):
            return one.end - offset
    words = list(_TOKEN.finditer(text))
    if not words or not is_determiner(words[0][0].lower()) or [word[0] for word in words[1:2]] == ["of"]:
        return None
    for at, word in enumerate(words[1:], start=1):
        small = word[0].lower()
        if small in PREPOSITIONS | RELATIVES | VERBS or small.endswith(("ing", "ed")) or not small[0].isalpha():
            return words[at - 1].end() if at > 1 else None
    return words[-1].end() if len(words) > 1 else None


def without_preposition(lead: str) -> str | None:
    """Return a lead-in without the preposition that it ends with; None where it ends with none."""
    words = list(_TOKEN.finditer(lead))
    small = tuple(word[0].lower() for word in words)
    count = next((len(longer) for longer in LONGER if small[-len(longer) :] == longer), 0)
    if not count and small and (small[-1] in PREPOSITIONS or (small[-1] == "of" and small[-2:-1] != ())):
        count = 0 if small[-1] == "of" and small[-2] in _WANTS_OF else 1
    return lead[: words[-count].start()].rstrip() if count else None


def opens_with_preposition(text: str) -> bool:
    """Whether a text begins with a preposition, of one word or several."""
    words = tuple(words_of(text))
    return words[:1] != () and (words[0] in PREPOSITIONS or any(words[: len(one)] == one for one in LONGER))


def capital_like(text: str, model: str) -> str:
    """Return a text with a capital where another text begins with one, or with a number."""
    return text[:1].upper() + text[1:] if model[:1].isupper() or model[:1].isdigit() else text
