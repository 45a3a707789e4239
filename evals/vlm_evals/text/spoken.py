"""What a model says, without what it thinks: the answer of a reasoning model is what stands outside its thinking."""

import re
from collections.abc import Iterable
from typing import NamedTuple

_TAGS = r"think|thinking|thought|thoughts|reasoning"
_OPEN = rf"(?:<(?:{_TAGS})>|\[THINK\]|◁think▷)"
_CLOSE = rf"(?:</(?:{_TAGS})>|\[/THINK\]|◁/think▷)"
_CLOSED = re.compile(rf"{_OPEN}.*?{_CLOSE}", re.IGNORECASE | re.DOTALL)
_BEFORE = re.compile(rf".*{_CLOSE}", re.IGNORECASE | re.DOTALL)  # the prompt had opened it
_UNENDED = re.compile(rf"{_OPEN}.*", re.IGNORECASE | re.DOTALL)
_MARKED = re.compile(_OPEN + "|" + _CLOSE, re.IGNORECASE)
_WRAPPED = re.compile(
    r"\s*(?:<answer>(?P<tag>.*?)(?:</answer>|\Z)|<\|begin_of_box\|>(?P<box>.*?)(?:<\|end_of_box\|>|\Z))\s*",
    re.IGNORECASE | re.DOTALL,
)


class Spoken(NamedTuple):
    """An answer without its thinking.

    Attributes:
        text: what was said.
        thought: whether thinking was left out.
        unended: whether the thinking does not end, so that nothing was said after it.
    """

    text: str
    thought: bool = False
    unended: bool = False


def spoken(answer: str) -> Spoken:
    """Return what an answer says outside `<think>…</think>` and its like, out of a wrapping `<answer>…</answer>`.

    Text without either comes back as it is. Thinking that was opened by the prompt ends the answer's own beginning;
    thinking that was cut off by the token limit leaves nothing.
    """
    thought = _MARKED.search(answer) is not None
    text, unended = answer, False
    if thought:
        text = _BEFORE.sub("", _CLOSED.sub("", answer))
        unended = _UNENDED.search(text) is not None
        text = _UNENDED.sub("", text).strip()
    if wrapped := _WRAPPED.fullmatch(text):
        text = (wrapped["tag"] or wrapped["box"] or "").strip()
    return Spoken(text, thought, unended)


def notes_on_thinking(answers: Iterable[str]) -> list[str]:
    """Return what a report says of answers whose thinking was left out; nothing where none thinks aloud."""
    found = [one for answer in answers if (one := spoken(answer)).thought]
    notes = []
    if found:
        notes.append(f"{len(found)} answers think aloud; what stands in <think> is not scored")
    if cut := sum(one.unended for one in found):
        notes.append(f"{cut} answers end inside their thinking and count as empty: allow more tokens")
    return notes
