"""Answers on a terminal: what a picture does not show is marked where its truth is known."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.text import Text

from vlm_app.view.marks import Marker, Named

ABSENT = "bold red underline"
HELD_BACK = 3  # words at the end of a text that grows: they may still become part of a longer name, as `hot dog`
_WORD = re.compile(r"\S+")


class Painter:
    """Prints a text that grows, a few words behind, with absent objects marked.

    Args:
        console: to print on.
        truth: the objects that the picture shows.
        marker: finds objects.
    """

    def __init__(self, console: Console, truth: Collection[str], marker: Marker) -> None:
        self._console, self._truth, self._marker = console, truth, marker
        self._text, self._printed = "", 0

    def add(self, piece: str) -> None:
        """Take a piece, and print what no further piece can change."""
        self._text += piece
        words = list(_WORD.finditer(self._text))
        if len(words) > HELD_BACK:
            self._print(words[-HELD_BACK].start())

    def end(self) -> None:
        """Print the rest, and name in a line of its own what was marked."""
        self._print(len(self._text))
        self._console.print()
        named = self._marker.named(self._text, self._truth)
        if absent := absent_objects(named):
            self._console.print(Text(f"not in the picture: {', '.join(absent)}", style="red"))

    def _print(self, until: int) -> None:
        if until > self._printed:
            whole = painted(self._text, self._marker.named(self._text, self._truth))
            self._console.print(whole[self._printed : until], end="", soft_wrap=True)
            self._printed = until


def painted(text: str, named: Sequence[Named]) -> Text:
    """Return a text in which the objects that the picture does not show are marked."""
    whole = Text(text)
    for one in named:
        if one.shown is False:
            whole.stylize(ABSENT, one.start, one.end)
    return whole


def absent_objects(named: Sequence[Named]) -> list[str]:
    """Return the objects that the picture does not show, each once, in order."""
    return list(dict.fromkeys(one.node for one in named if one.shown is False))
