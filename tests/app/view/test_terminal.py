"""Answers on a terminal: marked where the truth is known, a few words behind what the model says."""

import io

from rich.console import Console
from vlm_app.view.marks import Marker
from vlm_app.view.terminal import Painter, absent_objects, painted


def _printed(pieces: list[str], truth: set[str]) -> list[str]:
    """Return what stands on a terminal after every piece and after the end."""
    out = io.StringIO()
    painter = Painter(Console(file=out, force_terminal=True, color_system="standard"), truth, Marker())
    shown = []
    for piece in pieces:
        painter.add(piece)
        shown.append(out.getvalue())
    painter.end()
    return [*shown, out.getvalue()]


def test_both_words_of_a_name_are_marked() -> None:
    # three words are held back: `hot` waits for `dog`, and is printed when it can be nothing else
    shown = _printed(["A hot", " dog and", " two", " chairs."], {"chair"})
    assert shown[:3] == ["", "A ", "A \x1b[1;4;31mhot \x1b[0m"]
    assert shown[-1] == (
        "A \x1b[1;4;31mhot \x1b[0m\x1b[1;4;31mdog\x1b[0m and two chairs.\n\x1b[31mnot in the picture: hot dog\x1b[0m\n"
    )


def test_what_is_there_is_printed_as_it_is() -> None:
    assert (
        _printed(["A [bold]dog[/bold]", " :smile: sits here."], {"dog"})[-1]
        == "A [bold]dog[/bold] :smile: sits here.\n"
    )


def test_each_absent_object_is_named_once() -> None:
    named = Marker().named("A dog, a cat and a dog.", {"cat"})
    assert absent_objects(named) == ["dog"]
    assert [str(span.style) for span in painted("A dog, a cat and a dog.", named).spans] == ["bold red underline"] * 2
