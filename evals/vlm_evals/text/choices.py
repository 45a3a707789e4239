"""How an answer to a question with lettered choices is read: two published programs' ways, and `strict`, ours.

Ours says "unparsed" where an answer is none of the choices, and does not take the article "A" for one.
"""

import re
from collections.abc import Mapping, Sequence

from vlm_evals.records import Score
from vlm_evals.text.yes_no import MANY, unwrapped

UNPARSED = "unparsed"
_LEAD = re.compile(
    r"\W*(?:the\s+)?(?:correct\s+|final\s+|right\s+)?(?:answer|option|choice)(?:\s+is|\W*:)?", re.IGNORECASE
)
_ALONE = re.compile(r"[\W_]*([a-z])[\W_]*", re.IGNORECASE)
_MARKED = re.compile(r"\s*(?:\(([a-z])\)|\*\*([a-z])\b|([a-z])\s*[.):,](?=\s|\*|$))", re.IGNORECASE)
_PLAIN = re.compile(r"[^\w\s]")
_LMMS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^\s*\(?([AB])\)?\.?\s*$",
        r"^\s*\(?([AB])\)?[\.\s]",
        r"answer\s+is\s+\(?([AB])\)?",
        r"option\s+\(?([AB])\)?",
        r"\(?([AB])\)?(?:\s|$)",
    )
]


def read_strict(answer: str, options: Mapping[str, str]) -> str:
    """Return the letter that an answer gives, alone, marked as `(A)`, `A.` or `A:`, or by the words of its choice.

    Args:
        answer: what the model said, without its thinking.
        options: letter in capitals -> the words of its choice.
    """
    text = unwrapped(answer.strip())
    lead = _LEAD.match(text)
    rest = text[lead.end() :] if lead else text
    if found := _ALONE.fullmatch(rest) or _MARKED.match(rest):
        letter = next(part for part in found.groups() if part).upper()
        return letter if letter in options else UNPARSED
    said = _words(rest)
    named = [letter for letter, words in options.items() if said and said == _words(words)]
    return named[0] if len(named) == 1 else UNPARSED


def _words(text: str) -> list[str]:
    words = _PLAIN.sub(" ", text.lower()).split()
    return words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words


def read_first_character(answer: str) -> str:
    """Return the first character in capitals, as AllPath's program takes it: of "A dog" the A, of " B" a blank."""
    return answer[:1].upper() or UNPARSED


def read_as_lmms_eval(answer: str) -> str:
    """Return A or B as lmms-eval's task mmvp finds them; an a or b that ends any word may count."""
    text = answer.strip()
    for pattern in _LMMS:
        if found := pattern.search(text):
            return found[1].upper()
    return text[0].upper() if text[:1].upper() in ("A", "B") else UNPARSED


def choice_alerts(scores: Sequence[Score]) -> list[str]:
    """Return a sentence with examples where more than a tenth of the answers is none of the choices."""
    unread = [str(score.evidence.get("answer", "")) for score in scores if score.counts.get("neither")]
    if len(unread) <= MANY * len(scores):
        return []
    shown = ", ".join(repr(" ".join(answer.split())[:80]) for answer in list(dict.fromkeys(unread))[:3])
    share = f"{len(unread)} of {len(scores)} answers ({len(unread) / len(scores):.0%})"
    return [f"{share} are none of the choices and count as wrong, such as {shown}; ask for the letter alone"]
