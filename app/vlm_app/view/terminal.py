"""Answers on a terminal: what a picture does not show is marked where its truth is known."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from vlm_app.view import words
from vlm_app.view.marks import Named
from vlm_app.view.truth import Judge, Judged, Replied

ABSENT = "bold red underline"
WRONG = "red"
HELD_BACK = 3  # words at the end of a text that grows: they may still become part of a longer name, as `hot dog`
_WORD = re.compile(r"\S+")


class Painter:
    """Prints a text that grows, a few words behind, with absent objects marked.

    Args:
        console: to print on.
        judge: knows what the picture shows.
    """

    def __init__(self, console: Console, judge: Judge) -> None:
        self._console, self._judge = console, judge
        self._text, self._printed = "", 0

    def add(self, piece: str) -> None:
        """Take a piece, and print what no further piece can change."""
        self._text += piece
        words = list(_WORD.finditer(self._text))
        if len(words) > HELD_BACK:
            self._print(words[-HELD_BACK].start())

    def end(self) -> None:
        """Print the rest; a line of its own names what was marked, or says whether a yes or no is right."""
        self._print(len(self._text))
        self._console.print()
        one = self._judge.true_of("", self._text)
        if isinstance(one, Replied):
            self._console.print(_verdict(one))
        elif one is not None and one.invented:
            self._console.print(Text(f"not in the picture: {', '.join(one.invented)}", style=WRONG))

    def _print(self, until: int) -> None:
        if until > self._printed:
            whole = painted(self._text, self._judge.named(self._text))
            self._console.print(whole[self._printed : until], end="", soft_wrap=True)
            self._printed = until


def painted(text: str, named: Sequence[Named]) -> Text:
    """Return a text in which the objects that the picture does not show are marked."""
    whole = Text(text)
    for one in named:
        if one.shown is False:
            whole.stylize(ABSENT, one.start, one.end)
    return whole


def panels(console: Console, titles: Sequence[str], texts: Sequence[str], judge: Judge) -> Columns:
    """Return answers side by side, each with what it found, missed and invented where that is known."""
    width = max(30, console.width // len(texts) - 2)
    return Columns(
        [Panel(_judged(text, judge), title=title, width=width) for title, text in zip(titles, texts, strict=True)]
    )


def lines(text: str, judge: Judge) -> list[str]:
    """Return what is true of an answer, line by line; nothing where nobody knows."""
    one = judge.true_of("", text)
    return [] if one is None else words.true_of(one)


def _judged(text: str, judge: Judge) -> Text:
    """Return an answer with its marks, and below it what is true of it."""
    shown, one = painted(text, judge.named(text)), judge.true_of("", text)
    if one is None:
        return shown
    return Text("\n").join([shown, Text(), _verdict(one)])


def _verdict(one: Judged | Replied) -> Text:
    """Return what is true of an answer; what is wrong in it is red."""
    *right, last = words.true_of(one)
    wrong = one.said != one.right if isinstance(one, Replied) else bool(one.invented)
    return Text("\n").join([*map(Text, right), Text(last, style=WRONG if wrong else "")])
