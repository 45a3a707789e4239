"""Leaves what was taken back out of a sentence, so that a sentence is left: of `a, b and c` two, of a clause nothing.

What is not sure to leave grammar behind takes its whole clause with it, or the whole sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlm_heads.asking.grammar import (
    DANGLING,
    DETERMINERS,
    MODALS,
    SINGULAR,
    SUBJECTS,
    capital_like,
    has_verb,
    is_modifier,
    opens_with_preposition,
    phrase_start,
    pieces_of,
    starts_with_phrase,
    with_determiner_of,
    without_preposition,
    words_of,
)
from vlm_heads.asking.named import Named

_CLOSING = re.compile(r"""[\s.!?…"'”’)\]]*\Z""")
_SEVERAL = re.compile(r"\b(there|here)(\s+)(are|were)(\s+)(?=(?:a|an|one|another)\s)", re.IGNORECASE)


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
        place = next(at for at, piece in enumerate(self._pieces) if one.start < piece.end)
        start, end = phrase_start(self._text, one.start, self._pieces[place].start), min(one.end, self._end)
        for way in (self._from_list, self._from_preposition):
            if (left := way(place, start, end)) is not None:
                return self._finished(left)
        return self._finished(self._without_clause(place))

    def _finished(self, body: str) -> str:
        body = re.sub(r"\s+(?=[,;])", "", re.sub(r"\s+", " ", body)).strip(" ,;")
        return capital_like(body, self._text) + self._text[self._end :].strip() if body else ""

    def _piece(self, place: int) -> str:
        return self._text[self._pieces[place].start : self._pieces[place].end]

    def _from_list(self, place: int, start: int, end: int) -> str | None:
        """Return the sentence without an item of a list; None where the phrase is none, or the only one."""
        first, last, verb = self._list_around(place)
        if first == last:
            return None
        items = [self._piece(at) for at in range(first, last + 1)]
        lead = self._text[: self._pieces[first].start]
        if place == first:
            after = self._text[end : self._pieces[first].end]
            if not self._is_bare(after, end) or words_of(self._text[:start])[-1:] == ["of"]:
                return None
            lead, items[0] = self._text[:start], self._text[start : self._pieces[first].end]
            items[1] = with_determiner_of(items[0], items[1])
        items[-1] = items[-1].removesuffix(verb).rstrip()
        joints = [self._pieces[at].joint for at in range(first + 1, last + 1)]
        if len(items) == 2 and place == last and not verb:
            lead = self._lead_with(joints[0], first)
        joined = lead + _without_item(items, joints, place - first)
        rest = f"{' ' if verb else ''}{verb}{self._text[self._pieces[last].end : self._end]}"
        return joined + rest if len(items) > 2 else _agreeing(joined, items[place == first], verb, rest)

    def _lead_with(self, joint: str, place: int) -> str:
        """Return what stands before the one item of a list that is left, with the list's conjunction if it wants it.

        So of `blue, white and a car`, of which only the last is an object, `blue and white` is left.

        Args:
            joint: between the item and the one that is left out.
            place: of the item.
        """
        piece, word = self._piece(place), _conjunction(joint)
        listed = place > 0 and self._pieces[place].joint.strip() == "," and not self._opens(place)
        if not listed or not word or has_verb(piece) or is_modifier(piece):
            return self._text[: self._pieces[place].start]
        return f"{self._text[: self._pieces[place - 1].end]} {word} "

    def _is_bare(self, text: str, offset: int) -> bool:
        """Whether what follows a phrase in its piece is nothing, or a participle that brings no further phrase."""
        further = any(offset <= one.start < offset + len(text) for one in self._named)
        return is_modifier(text) and not further and DETERMINERS.isdisjoint(words_of(text)) and not has_verb(text)

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
        return (
            self._pieces[place].joint.strip() in (",", ";") and opens_with_preposition(before) and not has_verb(before)
        )

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
        if first > 0:
            return self._text[: self._pieces[first - 1].end] + self._text[self._pieces[beyond - 1].end : self._end]
        if beyond < len(self._pieces) and self._has_subject(beyond):
            return self._text[self._pieces[beyond].start : self._end]
        return ""

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


def _conjunction(joint: str) -> str:
    return joint.replace(",", "").strip()


def _agreeing(joined: str, item: str, verb: str, rest: str) -> str | None:
    """Return a sentence whose list has one item left, with its verb in the singular; None where that is not sure.

    Args:
        joined: the sentence up to the end of the item.
        item: the one that is left.
        verb: what the sentence says about it; empty where the list is no subject.
        rest: what follows the item, the verb included.
    """
    if not verb:
        return _SEVERAL.sub(lambda found: found[1] + found[2] + SINGULAR[found[3].lower()] + found[4], joined) + rest
    first = words_of(verb)[0]
    if first in MODALS or words_of(item)[0] not in ("a", "an", "one", "the", "another"):
        return joined + rest
    return joined + rest.replace(first, SINGULAR[first], 1) if first in SINGULAR else None
