"""What the marks, the colours and the words of the page mean."""

from __future__ import annotations

from html import escape

# what stands on the page -> what it means; a mark is a class of the style sheet with a sample of text
_MARKS = (
    ('<span class="vh-shown">dog</span>', "named, and in the picture"),
    ('<mark class="vh-absent">dog</mark>', "invented: named, and not in the picture"),
    ('<span class="vh-unchecked">dog</span>', "named; what the picture shows is not known here"),
    ('<span class="vh-changed">dog</span>', "the other answer says this differently"),
    (
        '<span class="vh-token vh-sample" style="--level:1">dog</span>',
        "the darker a word, the more it leaned on the image",
    ),
    ('<span class="vh-token vh-sample vh-absent-token">dog</span>', "part of an invented object"),
    ('<i class="vh-head vh-sample" style="--level:1"></i>', "a head; the darker, the more it looks at the image"),
    ('<i class="vh-head vh-sample vh-acted"></i>', "a head that was acted on"),
    ('<i class="vh-patch"></i>', "a patch of the picture; the yellower, the more of the attention it gets"),
    ('<i class="vh-patch vh-patch-sink"></i>', "an attention sink"),
)
TERMS = {
    "head": "One of the small readers inside each layer. At every word it decides which earlier words and which "
    "patches of the picture to take from.",
    "VHD": "How much a head looks at the image: the distance between what it gives with the picture and without it, "
    "when the answer begins.",
    "T-VHD": "How much a word leaned on the image: the same distance where that word was chosen, summed over the heads "
    "of each layer that differ most.",
    "sink": "A position that draws much attention and says little. Some methods move that attention to the picture.",
    "acted on": "The method changed this head: what the head gives, or what it looks at, counts for more or for less.",
}


def term(name: str, place: str) -> str:
    """Return a word of the page with its meaning, which is shown while it is pointed at or has the keyboard.

    Args:
        name: one of `TERMS`.
        place: where it stands; with the name it makes an id of its own.
    """
    tip = f"vh-tip-{place}-{name.replace(' ', '-')}"
    return (
        f'<span class="vh-term"><button type="button" aria-describedby="{tip}">{escape(name)}</button>'
        f'<span role="tooltip" id="{tip}" class="vh-tip">{escape(TERMS[name])}</span></span>'
    )


def legend() -> str:
    """Return every mark with its meaning, folded up, and the words that are explained."""
    marks = "".join(f"<li>{mark} <span>{escape(meaning)}</span></li>" for mark, meaning in _MARKS)
    terms = " ".join(term(name, "legend") for name in TERMS)
    return (
        f'<div class="vh-words"><span>In plain words:</span> {terms}</div>'
        f'<details class="vh-legend"><summary>What the marks and colours mean</summary><ul>{marks}</ul></details>'
    )
