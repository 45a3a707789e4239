"""What the model asked itself about its words, what it answered, and what it took back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_TAKEN_BACK = ("taken back", "left out")
_GONE = (*_TAKEN_BACK, "went with it")
_MOST = 1000  # to 1: odds beyond it are told as "more than"


@dataclass(frozen=True)
class AskedBack:
    """One object that the model named, and what became of it.

    Attributes:
        said: the words that name it.
        question: that was put; None where nothing was asked and the words' own probability decides.
        margin: yes over no, in nats; None where nothing was asked.
        chance: probability of the least likely of the words' tokens.
        fate: "kept", "taken back", "left out", "went with it" (gone with the clause of one that was left out), or "not
            said".
    """

    said: str
    question: str | None
    margin: float | None
    chance: float
    fate: str

    @property
    def gone(self) -> bool:
        """Whether the answer does without it."""
        return self.fate in _GONE


def asked_back(rows: Sequence[Mapping[str, Any]]) -> tuple[AskedBack, ...]:
    """Return what was asked of one answer, as the receipt of a check holds it, in the order of the words."""
    return tuple(
        AskedBack(one["said"], one["question"], one["margin"], math.exp(one["log_probability"]), one["fate"])
        for one in rows
    )


def replied(one: AskedBack) -> str:
    """Return what the model answered itself, with the odds; or how sure it was of its own word."""
    if one.margin is None:
        return f"“{one.said}” had {100 * one.chance:.0f} % when it was said"
    odds = math.exp(min(abs(one.margin), math.log(_MOST)))
    many = (
        f"more than {_MOST:,}" if abs(one.margin) >= math.log(_MOST) else f"{odds:.0f}" if odds >= 10 else f"{odds:.1f}"
    )
    return f"{'yes' if one.margin > 0 else 'no'}, {many} to 1"


def conversation(asked: Sequence[AskedBack]) -> str:
    """Return the questions, the answers and what was taken back, as HTML; nothing where nothing was asked."""
    if not asked:
        return ""
    lines = "".join(
        f"<li{' class=vh-gone' if one.gone else ''}><span>{escape(one.question or one.said)}</span> "
        f"<b>{escape(replied(one))}</b> <em>{escape(one.fate)}</em></li>"
        for one in asked
    )
    gone = sum(one.fate in _TAKEN_BACK for one in asked) or "none"
    what = "question" if asked[0].question else "object"
    many = f"{len(asked)} {what}{'' if len(asked) == 1 else 's'}"
    said = (
        f"The model asked itself {many} and took back {gone}." if asked[0].question else f"{many}, {gone} taken back."
    )
    return f'<div class="vh-asked"><p>{said}</p><ol aria-label="What the model asked itself">{lines}</ol></div>'
