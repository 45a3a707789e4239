"""The tour: three steps that say where to look and what to do; whoever closes it does not see it again."""

from __future__ import annotations

from html import escape

# what is pointed at -> what is said
_STEPS = (
    (
        "#vh-plain",
        "Two answers",
        "The same model, the same picture and question: plain, and with a method attached. What is not in the picture "
        "is marked. Below stands what each answer found, missed and invented.",
    ),
    (
        "#vh-tabs",
        "Look inside",
        "Choose a word to see which patches of the picture it used. Choose a head on the map to see what this one head "
        "looked at. Arrow keys walk.",
    ),
    (
        "#vh-run",
        "Try it",
        "Choose a picture, one of yours too, choose methods and turn their options. Run asks the model again, both "
        "ways at once.",
    ),
)


def tour() -> str:
    """Return the tour; its script shows one step at a time."""
    steps = "".join(
        f'<li data-target="{target}"{"" if number == 1 else " hidden"}><b>{number} of {len(_STEPS)} · {escape(title)}.'
        f"</b> {escape(text)}</li>"
        for number, (target, title, text) in enumerate(_STEPS, 1)
    )
    return (
        f'<section class="vh-tour" aria-label="A tour in three steps" hidden><ol aria-live="polite">{steps}</ol>'
        '<div class="vh-tour-go"><button type="button" data-go="-1" disabled>Back</button>'
        '<button type="button" data-go="1">Next</button>'
        '<button type="button" data-go="0">Close the tour</button></div></section>'
    )
