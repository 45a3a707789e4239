"""Leaves what was taken back out of a sentence, so that a sentence is left: of `a, b and c` two, of a clause nothing.

What is not sure to leave grammar behind takes its whole clause with it, or the whole sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlm_heads.asking.agreement import there_agreeing, verb_agreeing, with_determiner_of
from vlm_heads.asking.grammar import (
    DANGLING,
    RELATIVES,
    SINGULAR,
    SUBJECTS,
    SUBORDINATES,
    capital_like,
    has_verb,
    is_determiner,
    is_modifier,
    opens_with_preposition,
    phrase_start,
    pieces_of,
    starts_with_phrase,
    without_preposition,
    words_of,
)
from vlm_heads.asking.named import Named

_CLOSING = re.compile(r"""[\s.!?…"'”’)\]]*\Z""")
_PAIRS = re.compile(r"\b(?:both|either)\s+(?!of\b)", re.IGNORECASE)
_CLAUSE_JOINT = re.compile(r"\s*(?:,\s+(?:and|but|while|whereas|yet)|;(?:\s+(?:and|but))?)\s+", re.IGNORECASE)
_LISTING = ("like", "such")  # open a list as prepositions do


def leave_out(sentence: str, names: Callable[[str], Sequence[Named]], unwanted: frozenset[str]) -> str:
    """Return a sentence without the phrases that name unwanted objects; empty where no sentence is left.

    Args:
        sentence: one, with its closing mark.
        names: finds the objects that a text names.
        unwanted: names of those that are left out.
    """
    text = sentence.strip()
    while True:
        named = list(names(text))
        first = next((one for one in named if one.name in unwanted), None)
        if first is None:
            return text
        shorter = _Sentence(text, named).without(first)
        if len(words_of(shorter)) >= len(words_of(text)) or not _stands(shorter):
            return ""
        if not {one.name for one in names(shorter)} <= {one.name for one in named}:  # what was denied would be claimed
            return ""
        text = shorter


def _stands(text: str) -> bool:
    """Whether a text can be a sentence: it says something, and its last word wants nothing after it."""
    words = [word for word in words_of(text) if word[0].isalnum()]
    return len(words) > 1 and words[-1] not in DANGLING


class _Sentence:
    """One sentence, cut into pieces at its commas and conjunctions.

    Args:
        text: of the sentence, stripped.
        named: the objects in it.
    """

    def __init__(self, text: str, named: Sequence[Named]) -> None:
        closing = _CLOSING.search(text)
        self._end = closing.start() if closing else len(text)
        self._text, self._named = text, named
        self._pieces = pieces_of(text, self._end, named)

    def without(self, one: Named) -> str:
        """Return the sentence without the phrase that names an object; empty where nothing is left."""
        if (left := self._from_clauses(one)) is not None:
            return self._finished(left)
        place = next(at for at, piece in enumerate(self._pieces) if one.start < piece.end)
        start, end = phrase_start(self._text, one.start, self._pieces[place].start), min(one.end, self._end)
        for way in (self._from_between, self._from_list, self._from_preposition):
            if (left := way(place, start, end)) is not None:
                return self._finished(left)
        return self._finished(self._without_clause(place))

    def _finished(self, body: str) -> str:
        body = re.sub(r"\s+(?=[,;])", "", re.sub(r"\s+", " ", body)).strip(" ,;")
        return capital_like(body, self._text) + self._text[self._end :].strip() if body else ""

    def _piece(self, place: int) -> str:
        return self._text[self._pieces[place].start : self._pieces[place].end]

    def _from_clauses(self, one: Named) -> str | None:
        """Return the sentence's clauses, one of them without the phrase or gone; None where it is not sure of two."""
        joint = self._clause_joint()
        if joint is None:
            return None
        left, right = self._text[: joint.start()], self._text[joint.end() : self._end]
        inside = one.start < joint.start()
        if inside:
            left = _Sentence(left, [each for each in self._named if each.end <= joint.start()]).without(one)
        else:
            moved = [_moved(each, joint.end()) for each in self._named if each.start >= joint.end()]
            right = _Sentence(right, moved).without(_moved(one, joint.end()))
        if _stands(left) and _stands(right):
            return left + joint[0] + right
        return right if inside else "" if words_of(left)[0] in SUBORDINATES else left

    def _clause_joint(self) -> re.Match[str] | None:
        """Return the joint of two clauses that can each stand alone, the second a list or a phrase with its verb."""
        for joint in _CLAUSE_JOINT.finditer(self._text, 0, self._end):
            if not has_verb(self._text[: joint.start()]):
                continue
            inside = [_moved(each, joint.end()) for each in self._named if each.start >= joint.end()]
            if _Sentence(self._text[joint.end() : self._end], inside).is_clause():
                return joint
        return None

    def is_clause(self) -> bool:
        """Whether the text begins with what its first verb is about: a phrase, or a list where the verb is plural."""
        if not SUBJECTS.isdisjoint(words_of(self._piece(0))[:1]):
            return has_verb(self._piece(0))
        for place in range(len(self._pieces)):
            if verb := self._verb_after(place):
                return place == 0 or words_of(verb)[0] not in SINGULAR.values()
            if not self._is_item(place):
                return False
        return False

    def _from_between(self, place: int, start: int, end: int) -> str | None:
        """Return the sentence without `between a and b`, of which one cannot be left; None where there is no such."""
        first, last, verb = self._list_around(place)
        inside = [one for one in self._named if self._pieces[first].start <= one.start < self._pieces[first].end]
        at = start if place == first else inside[-1].start if inside else self._pieces[first].start
        at = phrase_start(self._text, at, self._pieces[first].start)
        lead = self._text[self._pieces[first].start : at].rstrip()
        if last != first + 1 or words_of(lead)[-1:] != ["between"]:
            return None
        lead = lead[: -len("between")].rstrip()
        behind = self._text[self._pieces[last].end : self._end]
        if not lead and last + 1 < len(self._pieces):
            return self._text[: self._pieces[first].start] + self._text[self._pieces[last + 1].start : self._end]
        if verb or not lead or words_of(lead)[-1] in DANGLING:
            return self._without_clause(place)
        return self._text[: self._pieces[first].start] + lead + behind

    def _from_list(self, place: int, start: int, end: int) -> str | None:
        """Return the sentence without an item of a list; None where the phrase is none, or the only one."""
        first, last, verb = self._list_around(place)
        if first == last:
            return None
        items = [self._piece(at) for at in range(first, last + 1)]
        lead, left = self._text[: self._pieces[first].start], _PAIRS.sub("", self._phrase(first))
        if place == first:
            after = self._text[end : self._pieces[first].end]
            if not self._is_bare(after, end) or words_of(self._text[:start])[-1:] == ["of"]:
                return None
            lead, items[0] = self._text[:start], self._text[start : self._pieces[first].end]
            items[1] = with_determiner_of(items[0], items[1])
            left = items[1]
        items[-1] = items[-1].removesuffix(verb).rstrip()
        joints = [self._pieces[at].joint for at in range(first + 1, last + 1)]
        if len(items) == 2 and place == last and not verb:
            lead = self._lead_with(joints[0], first)
        joined = lead + _without_item(items, joints, place - first)
        if len(items) == 2:
            joined = _PAIRS.sub("", joined)
        behind = self._text[self._pieces[last].end : self._end]
        if not verb:
            return there_agreeing(joined, several=len(items) > 2) + behind
        said = verb if len(items) > 2 else verb_agreeing(left, verb)
        return None if said is None else f"{joined} {said}{behind}"

    def _phrase(self, place: int) -> str:
        """Return a piece from its first object's phrase on, or all of it where it names none."""
        piece = self._pieces[place]
        inside = (one.start for one in self._named if piece.start <= one.start < piece.end)
        return self._text[phrase_start(self._text, next(inside, piece.start), piece.start) : piece.end]

    def _lead_with(self, joint: str, place: int) -> str:
        """Return what stands before the one item of a list that is left, with the list's conjunction if it wants it.

        So of `blue, white and a car`, of which only the last is an object, `blue and white` is left.

        Args:
            joint: between the item and the one that is left out.
            place: of the item.
        """
        piece, word = self._piece(place), _conjunction(joint)
        listed = place > 0 and self._pieces[place].joint.strip() == "," and not self._opens(place)
        opens = is_modifier(piece) or opens_with_preposition(piece) or words_of(piece)[0] in _LISTING
        if not listed or not word or has_verb(piece) or opens:
            return self._text[: self._pieces[place].start]
        return f"{self._text[: self._pieces[place - 1].end]} {word} "

    def _is_bare(self, text: str, offset: int) -> bool:
        """Whether what follows a phrase in its piece is nothing, or a participle that brings no further phrase."""
        further = any(offset <= one.start < offset + len(text) for one in self._named)
        determined = any(is_determiner(word) for word in words_of(text))
        return is_modifier(text) and not further and not determined and not has_verb(text)

    def _list_around(self, place: int) -> tuple[int, int, str]:
        """Return the first and last piece of the list that a piece belongs to, and from its verb on what follows it.

        Only a list that the sentence is about has a verb behind it: there is none before it.
        """
        first = place
        while first > 0 and not self._opens(first) and (self._is_item(first) or self._verb_after(first)):
            first -= 1
        last, verb = place, self._verb_after(place) if place > first else ""
        while not verb and last + 1 < len(self._pieces) and not self._opens(last + 1):
            verb = self._verb_after(last + 1)
            if not verb and not self._is_item(last + 1):
                break
            last += 1
        return first, last, verb

    def _is_item(self, place: int) -> bool:
        """Whether a piece is an item of a list: a noun phrase, and what may belong to it."""
        text = self._piece(place)
        end = starts_with_phrase(text, self._named, self._pieces[place].start)
        return end is not None and is_modifier(text[end:]) and not has_verb(text[end:])

    def _verb_after(self, place: int) -> str:
        """Return a piece from the verb behind its first phrase on, if it is the sentence's first verb; or nothing."""
        text = self._piece(place)
        end = starts_with_phrase(text, self._named, self._pieces[place].start)
        following = "" if end is None else text[end:].lstrip()
        own = not has_verb(self._text[: self._pieces[place].start])
        return following if own and has_verb(" ".join(words_of(following)[:1])) else ""

    def _opens(self, place: int) -> bool:
        """Whether the comma before a piece ends an opening as `In the kitchen,`, and no item of a list."""
        before = self._piece(place - 1)
        if self._pieces[place].joint.strip() not in (",", ";") or not opens_with_preposition(before):
            return False
        # `it has items, including a cup, a dog` goes on after a comma: a list
        begins = place == 1 or _conjunction(self._pieces[place - 1].joint) not in ("", ";") or self._opens(place - 1)
        return begins and not has_verb(before)

    def _from_preposition(self, place: int, start: int, end: int) -> str | None:
        """Return the sentence without a preposition and the phrase after it; None where there is no such pair."""
        piece = self._pieces[place]
        lead, after = without_preposition(self._text[piece.start : start]), self._text[end : piece.end]
        if lead is None:
            return None
        if not lead:  # the preposition opens the piece
            return None if after.strip() else self._without_piece(place)
        if words_of(lead)[-1] in DANGLING:
            return None
        if not opens_with_preposition(after) and not has_verb(" ".join(words_of(after)[:1])):
            heads_list = after.strip() and self._list_around(place)[1] > place
            if heads_list or not is_modifier(after) or has_verb(after):
                return None
            after = ""
        return f"{self._text[: piece.start]}{lead} {after.strip()}{self._text[piece.end : self._end]}"

    def _without_piece(self, place: int) -> str:
        kept = [at for at in range(len(self._pieces)) if at != place]
        return "".join(("" if at == kept[0] else self._pieces[at].joint) + self._piece(at) for at in kept)

    def _without_clause(self, place: int) -> str:
        """Return the sentence without the clause that a piece belongs to; empty where no other can stand alone."""
        starts = [0, *(at for at in range(1, len(self._pieces)) if self._begins_clause(at)), len(self._pieces)]
        first = max(start for start in starts if start <= place)
        beyond = min(start for start in starts if start > place)
        if first > 0 and not (first == starts[1] and self._only_opens(first)):
            return self._text[: self._pieces[first - 1].end] + self._text[self._pieces[beyond - 1].end : self._end]
        if beyond < len(self._pieces) and self._has_subject(beyond):
            return self._text[self._pieces[beyond].start : self._end]
        return ""

    def _only_opens(self, place: int) -> bool:
        """Whether what stands before a piece cannot stand alone: `if you look closely`, `in a room where a man is`."""
        before = words_of(self._text[: self._pieces[place].start])
        relative = opens_with_preposition(self._piece(0)) and not RELATIVES.isdisjoint(before)
        return before[0] in SUBORDINATES or relative

    def _begins_clause(self, place: int) -> bool:
        """Whether a piece has a verb, and those before it have one too, so that they can stand alone."""
        return has_verb(self._piece(place)) and has_verb(self._text[: self._pieces[place - 1].end])

    def _has_subject(self, place: int) -> bool:
        """Whether a piece begins with what its verb says something about."""
        text = self._piece(place)
        named = starts_with_phrase(text, self._named, self._pieces[place].start) is not None
        return named or not SUBJECTS.isdisjoint(words_of(text)[:1])


def _without_item(items: Sequence[str], joints: Sequence[str], gone: int) -> str:
    """Return a list without one of its items; the conjunction stays before the last.

    Args:
        items: of the list.
        joints: what stands before each but the first.
        gone: the item that is left out.
    """
    kept, between = [*items[:gone], *items[gone + 1 :]], list(joints)
    taken = between.pop(max(0, gone - 1))
    if gone == len(items) - 1 and between and not _conjunction(between[-1]):
        between[-1] = taken
    if len(between) == 1 and _conjunction(between[0]):  # no comma between two
        between[0] = f" {_conjunction(between[0])} "
    return kept[0] + "".join(joint + item for joint, item in zip(between, kept[1:], strict=True))


def _moved(one: Named, back: int) -> Named:
    return Named(one.start - back, one.end - back, one.name)


def _conjunction(joint: str) -> str:
    return joint.replace(",", "").strip()
