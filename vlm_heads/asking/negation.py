"""What stands under a negation: `no dogs or cups`, `without a dog`, claims nothing, so nothing is asked about it.

A negation reaches to the end of its clause and over lists joined by `or`, `nor` and commas. It does not reach beyond
`but` or `except`, nor into a new clause, nor to what has an article of its own behind `and`: `no dog and a cup` says
that there is a cup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlm_heads.asking.grammar import DETERMINERS, PREPOSITIONS, SUBJECTS, VERBS
from vlm_heads.asking.named import Named

# `No, there is a dog` answers a question; `not only a dog` says that there is one
_CLAUSE = re.compile(
    r"\b(?:no(?!\s*[,.;:!?])(?!\s+(?:doubt|less|fewer|longer)\b)|(?:not|cannot|\w+n['’]t)(?!\s+(?:only|just|merely|simply"
    r"|far|to\s+mention)\b)|never|neither|nor|none|lacks?|lacking)\b",
    re.IGNORECASE,
)
# these negate a phrase: a verb behind it belongs to what stands before
_PHRASE = re.compile(
    r"\b(?:(?:with|has|have|having)\s+no|without|(?:free|devoid|void|empty|absence|lack|instead)\s+of|rather\s+than)\b",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r"\b(?:who|which|that|whose)\b(?:\s+\w+){1,2}\s*\Z", re.IGNORECASE)
# `a dog is not visible`: the object stands before the negation
_NOT_THERE = re.compile(
    r"\s+(?:(?:is|are|was|were)\s+not|(?:is|are|was|were)n['’]t|can\s*not|can['’]t)(?:\s+\w+ly)?\s+(?:be\s+)?"
    r"(?:visible|present|seen|shown|depicted|pictured|there|in\s+(?:the|this)\s+(?:image|picture|photo|scene))\b"
    r"|\s+(?:is|are|was|were)\s+(?:absent|nowhere)\b",
    re.IGNORECASE,
)
_LISTED = "but except excepting besides aside apart although though however yet while whereas because since only just"
_ENDS = frozenset(_LISTED.split())
# these go on with what is negated
_WITHIN = frozenset(["any", "other", "such", "like", "including", "nor", "or", "even", "no", "not"])
_FINITE = VERBS - frozenset(["be", "have", "do", "see", "find", "show", "look", "appear", "seem"])
_WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")


def claimed(text: str, named: Sequence[Named]) -> list[Named]:
    """Return the objects that a text says are there: all but those under a negation.

    Args:
        text: one or several sentences.
        named: the objects named in it.
    """
    reaches = [(cue.end(), _reach(text, cue.end(), bounded=False)) for cue in _CLAUSE.finditer(text)]
    reaches += [(cue.end(), _reach(text, cue.end(), bounded=True)) for cue in _PHRASE.finditer(text)]
    # `with no` is found twice, and the shorter reach is right
    shortest: dict[int, int] = {}
    for start, end in reaches:
        shortest[start] = min(end, shortest.get(start, end))
    return [
        one
        for one in named
        if not any(start <= one.start < end for start, end in shortest.items())
        and _NOT_THERE.match(text, one.end) is None
    ]


def _reach(text: str, start: int, *, bounded: bool) -> int:
    """Return where a negation ends that begins to reach at a place.

    Args:
        text: all of it.
        start: behind the negation.
        bounded: whether a verb ends it.
    """
    before = text[:start]
    bounded = bounded or _RELATIVE.search(before) is not None
    words = list(_WORD.finditer(text, start))
    small = [word[0].lower() for word in words]
    clause_before = not VERBS.isdisjoint(_WORD.findall(before.lower()))
    for at, word in enumerate(small):
        ends = word in _ENDS or word in ".!?;:…" or small[at : at + 2] == ["other", "than"]
        ends = ends or (bounded and at > 1 and word in _FINITE and small[at - 1] not in ("that", "which", "who", "to"))
        if ends or _steps_out(small, at, bounded or clause_before):
            return words[at].start()
    return len(text)


def _steps_out(words: Sequence[str], at: int, clause_before: bool) -> bool:
    """Whether a comma or an `and` leads to what the negation does not reach.

    Args:
        words: behind the negation, in small letters.
        at: of the comma or the conjunction.
        clause_before: whether a verb that follows would begin a new clause.
    """
    if words[at] not in (",", "and") or words[at + 1 : at + 2] in ([","], ["and"], ["or"], ["nor"]):
        return False
    rest = words[at + 1 :]
    if not rest:
        return True
    stop = next((place for place, word in enumerate(rest) if not word[0].isalnum() or word in ("and", "or")), len(rest))
    piece = rest[:stop]
    if rest[0] in SUBJECTS or rest[0] in ("with", "which", "who", "where", "making", "creating", "giving", "leaving"):
        return True
    if clause_before and any(word in _FINITE for word in piece):
        return True
    own = rest[0] in (DETERMINERS | PREPOSITIONS) - _WITHIN or rest[0].isdigit() or rest[0].endswith("ing")
    return own and not (words[at] == "," and _joined_by_or(rest))


def _joined_by_or(words: Sequence[str]) -> bool:
    """Whether a list goes on to an `or` or `nor` before an `and` or the end of the sentence."""
    return next((word for word in words if word in ("and", "or", "nor", "but", ".", ";")), "") in ("or", "nor")
