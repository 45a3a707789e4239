"""How an answer to a yes-or-no question is read: the three published programs' ways, and `strict-neither`, ours.

Ours says "unparsed" where an answer is neither yes nor no instead of counting it as yes.
"""

import re
from typing import Literal, get_args

from vlm_evals.errors import EvaluationError
from vlm_evals.records import Label

Parser = Literal["strict-neither", "pope", "opera", "vcd"]
Reading = Literal["yes", "no", "unparsed"]
PARSERS: tuple[Parser, ...] = get_args(Parser)


def parse_answer(answer: str, *, parser: Parser = "strict-neither", label: Label | None = None) -> Reading:
    """Return "yes", "no" or "unparsed" for an answer.

    Args:
        answer: what the model said.
        parser: "pope" (the original), "opera" (OPERA, PAI), "vcd", or ours, "strict-neither". Only ours can return
            "unparsed".
        label: the right answer. Only "vcd" needs it: it looks for the label's own word anywhere in the answer.

    Raises:
        EvaluationError: for an unknown parser, or "vcd" without a label.
    """
    if parser == "strict-neither":
        return _strict(answer)
    if parser == "pope":
        words = answer.split(".")[0].replace(",", "").split(" ")
        return "no" if {"No", "no", "not"}.intersection(words) else "yes"
    if parser == "opera":
        words = answer.replace(".", "").replace(",", "").split(" ")
        denied = {"No", "NO", "no", "not"}.intersection(words) or any(word.endswith("n't") for word in words)
        return "no" if denied else "yes"
    if parser == "vcd":
        if label is None:
            raise EvaluationError("the parser vcd depends on the label; pass label='yes' or label='no'")
        said = label in answer.lower()
        return label if said else ("no" if label == "yes" else "yes")
    raise EvaluationError(f"unknown parser {parser!r}; choose one of {', '.join(PARSERS)}")


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_LEAD = re.compile(r"(?:the\s+)?(?:correct\s+|final\s+)?answer(?:\s+is|\s*:)?", re.IGNORECASE)
_LINKS = {"and", "or", "but"}


def _strict(answer: str) -> Reading:
    """Return yes or no where it is the first word, or follows "the answer is", and is not taken back at once."""
    text = answer.strip()
    lead = _LEAD.match(text)
    words = [word.lower() for word in _WORD.findall(text[lead.end() :] if lead else text)]
    while words and words[0].isdecimal():  # a list number: "1. No"
        words.pop(0)
    if not words or words[0] not in ("yes", "no"):
        return "unparsed"
    following = next((word for word in words[1:3] if word not in _LINKS), None)
    if following in ("yes", "no") and following != words[0]:
        return "unparsed"
    return "yes" if words[0] == "yes" else "no"
