"""How an answer to a yes-or-no question is read: the four published programs' ways, and `strict-neither`, ours.

Ours says "unparsed" where an answer is neither yes nor no instead of counting it as yes.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from vlm_evals.errors import EvaluationError
from vlm_evals.records import Label, Score

Parser = Literal["strict-neither", "pope", "opera", "vcd", "repope"]
Reading = Literal["yes", "no", "unparsed", "dropped"]
PARSERS: tuple[Parser, ...] = get_args(Parser)


def parse_answer(answer: str, *, parser: Parser = "strict-neither", label: Label | None = None) -> Reading:
    """Return "yes", "no", "unparsed" or "dropped" for an answer.

    Args:
        answer: what the model said, without its thinking (see `spoken`).
        parser: "pope" (the original), "opera" (OPERA, PAI), "vcd", "repope", or ours, "strict-neither". Only ours can
            return "unparsed", an answer that counts as wrong. Only "repope" can return "dropped", one that counts
            nowhere.
        label: the right answer. Only "vcd" needs it: it looks for the label's own word anywhere in the answer.

    Raises:
        EvaluationError: for an unknown parser, or "vcd" without a label.
    """
    read = _READERS.get(parser)
    if read is None:
        raise EvaluationError(f"unknown parser {parser!r}; choose one of {', '.join(PARSERS)}")
    return read(answer, label)


def _as_pope(answer: str, _: Label | None) -> Reading:
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def _as_opera(answer: str, _: Label | None) -> Reading:
    words = answer.replace(".", "").replace(",", "").split(" ")
    denied = {"No", "NO", "no", "not"}.intersection(words) or any(word.endswith("n't") for word in words)
    return "no" if denied else "yes"


def _as_vcd(answer: str, label: Label | None) -> Reading:
    if label is None:
        raise EvaluationError("the parser vcd depends on the label; pass label='yes' or label='no'")
    said = label in answer.lower()
    return label if said else ("no" if label == "yes" else "yes")


def _as_repope(answer: str, _: Label | None) -> Reading:
    lower = answer.lower()
    return "yes" if "yes" in lower else "no" if "no" in lower else "dropped"  # "not" holds "no"


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_LEAD = re.compile(r"\W*(?:the\s+)?(?:correct\s+|final\s+)?answer(?:\s+is|\W*:)?", re.IGNORECASE)
_LINKS = {"and", "or", "but"}
_SURE = {"doubt", "question", "mistake", "mistaking"}  # "Yes, no doubt": this no takes nothing back
_ROLE = re.compile(
    r"(?:\W|<\|\w+\|>)*(?:(?:user|human)\b.*\b)?(?:assistant|model|gpt|bot|response|output)\b(?:\W*:|\|>|\W*\n)",
    re.IGNORECASE | re.DOTALL,
)
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*\{(?:\s*\\text\w*\s*\{)?([^{}]*)\}")
_KEYS = ("answer", "final_answer", "response", "prediction", "label", "result", "output")


def _strict(answer: str, _: Label | None) -> Reading:
    """Return yes or no where it is the first word, or follows "the answer is", and is not taken back at once."""
    text = unwrapped(answer.strip())
    lead = _LEAD.match(text)
    words = [word.lower() for word in _WORD.findall(text[lead.end() :] if lead else text)]
    while words and words[0].isdecimal():  # a list number: "1. No"
        words.pop(0)
    if not words or words[0] not in ("yes", "no"):
        return "unparsed"
    if words[1:2] == ["no"] and words[2:3] and words[2] in _SURE:
        del words[1]
    following = next((word for word in words[1:3] if word not in _LINKS), None)
    if following in ("yes", "no") and following != words[0]:
        return "unparsed"
    return "yes" if words[0] == "yes" else "no"


_READERS: Mapping[str, Callable[[str, Label | None], Reading]] = {
    "strict-neither": _strict,
    "pope": _as_pope,
    "opera": _as_opera,
    "vcd": _as_vcd,
    "repope": _as_repope,
}


def unwrapped(text: str) -> str:
    """Return an answer out of what is put around answers: a tag, a box, a JSON object, the name of who speaks."""
    for wrapping in (_TAGGED, _BOXED):
        if found := wrapping.findall(text):
            text = found[-1].strip()
    if inner := _stated(text):
        return inner
    role = _ROLE.match(text)
    return text[role.end() :].strip() if role else text


def _stated(text: str) -> str | None:
    """Return the answer that a JSON object in a text states; None where there is none."""
    try:
        stated, _ = json.JSONDecoder().raw_decode(text, text.find("{"))
    except (ValueError, RecursionError):
        return None
    named = {str(key).lower(): value for key, value in stated.items()} if isinstance(stated, dict) else {}
    return next((named[key] for key in _KEYS if isinstance(named.get(key), str)), None)


_MARKS = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
_LISTED = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
_MOST_STOPS = 32  # the program hands a flag where a count belongs


def read_words(answer: str) -> Reading:
    """Return yes or no where one of them alone is among the words, as VLMEvalKit reads answers."""
    lowered = answer.lower()
    text = lowered
    for mark in _MARKS:
        dropped = f"{mark} " in lowered or f" {mark}" in lowered or _LISTED.search(lowered) is not None
        text = text.replace(mark, "" if dropped else " ")
    words = _STOP.sub("", text, count=_MOST_STOPS).split()
    found = {"yes", "no"}.intersection(words)
    if len(found) != 1:
        return "unparsed"
    return "yes" if "yes" in found else "no"


MANY = 0.1  # a larger share of unparsed answers is said in the first lines of a report
_EXAMPLES, _EXAMPLE = 3, 80


def unparsed_alerts(scores: Sequence[Score]) -> list[str]:
    """Return a sentence with three examples where more than a tenth of the answers is neither yes nor no.

    Args:
        scores: with the counts `neither` and `questions`, and the answer as evidence.
    """
    asked = sum(score.counts.get("questions", 1) for score in scores)
    unread = [
        str(score.evidence.get("answer", ""))
        for score in scores
        if score.counts.get("neither") and score.evidence.get("reading") != "dropped"
    ]
    if len(unread) <= MANY * asked:
        return []
    shown = ", ".join(repr(_brief(answer)) for answer in list(dict.fromkeys(unread))[:_EXAMPLES])
    return [
        f"{len(unread)} of {asked} answers ({len(unread) / asked:.0%}) are neither yes nor no and count as wrong, such "
        f"as {shown}; look at them before the figures, and ask for one word or read them with another parser"
    ]


def _brief(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= _EXAMPLE else f"{line[: _EXAMPLE - 1]}…"
