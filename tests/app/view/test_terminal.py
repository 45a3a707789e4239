"""Answers on a terminal: marked where the truth is known, a few words behind what the model says."""

import io

from rich.console import Console
from vlm_app.view.marks import Marker
from vlm_app.view.terminal import Painter, lines, painted, panels
from vlm_app.view.truth import Judge


def _printed(pieces: list[str], truth: tuple[str, ...], prompt: str = "Describe it.") -> list[str]:
    """Return what stands on a terminal after every piece and after the end."""
    out = io.StringIO()
    painter = Painter(Console(file=out, force_terminal=True, color_system="standard"), Judge(prompt, truth, Marker()))
    shown = []
    for piece in pieces:
        painter.add(piece)
        shown.append(out.getvalue())
    painter.end()
    return [*shown, out.getvalue()]


def test_both_words_of_a_name_are_marked() -> None:
    # three words are held back: `hot` waits for `dog`, and is printed when it can be nothing else
    shown = _printed(["A hot", " dog and", " two", " chairs."], ("chair",))
    assert shown[:3] == ["", "A ", "A \x1b[1;4;31mhot \x1b[0m"]
    assert shown[-1] == (
        "A \x1b[1;4;31mhot \x1b[0m\x1b[1;4;31mdog\x1b[0m and two chairs.\n\x1b[31mnot in the picture: hot dog\x1b[0m\n"
    )


def test_what_is_there_is_printed_as_it_is() -> None:
    assert (
        _printed(["A [bold]dog[/bold]", " :smile: sits here."], ("dog",))[-1]
        == "A [bold]dog[/bold] :smile: sits here.\n"
    )


def test_each_absent_object_is_named_once() -> None:
    named = Marker().named("A dog, a cat and a dog.", {"cat"})
    assert "not in the picture: dog\x1b" in _printed(["A dog, a cat and a dog."], ("cat",))[-1]
    assert [str(span.style) for span in painted("A dog, a cat and a dog.", named).spans] == ["bold red underline"] * 2


def test_a_yes_or_no_names_nothing_and_is_right_or_wrong() -> None:
    asked = "Is there a dog?"
    said = _printed(["Yes, there is a dog."], ("cat",), asked)[-1]
    assert said == "Yes, there is a dog.\n\x1b[31m“yes” is wrong (dog: not in the picture).\x1b[0m\n"
    assert _printed(["No."], ("cat",), asked)[-1] == "No.\n“no” is right (dog: not in the picture).\n"


def test_answers_stand_side_by_side_above_what_is_true_of_them() -> None:
    # the picture: a cat, a cup. the first answer finds one of two and invents a dog; the second finds both
    judge = Judge("Describe it.", ("cat", "cup"), Marker())
    texts = ["A cat and a dog.", "A cat and a cup."]
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=80)
    console.print(panels(console, ("plain", "vhr"), texts, judge))
    shown = out.getvalue()
    assert "A cat and a \x1b[1;4;31mdog\x1b[0m." in shown
    assert "\x1b[31minvented: dog\x1b[0m" in shown
    assert lines(texts[0], judge) == ["found 1 of 2: cat", "missed: cup", "invented: dog"]
    assert lines(texts[1], judge) == ["found 2 of 2: cat, cup", "missed: nothing", "invented: nothing"]
    for one, other in zip(lines(texts[0], judge), lines(texts[1], judge), strict=True):
        assert any(one in line and other in line for line in shown.splitlines())


def test_nothing_is_said_of_a_picture_that_nobody_knows() -> None:
    assert lines("A dog.", Judge("Describe it.", None, Marker())) == []
