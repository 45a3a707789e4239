"""What the project's own studies measure, and what they show where nothing is named."""

from __future__ import annotations

from dataclasses import dataclass

CAPTIONS, QUESTIONS = "chair", "pope"  # what captions invent, and what is answered about objects


@dataclass(frozen=True)
class Shown:
    """What the main job shows on an embedded model, few enough scenes for minutes on two cores.

    Attributes:
        words: the mitigation, as on the command line.
        captions: held-out scenes to caption.
        questioned: scenes to ask questions about.
    """

    words: tuple[str, ...]
    captions: int
    questioned: int


SHOWN = {
    "small": Shown(("askback:by=both,say_more=0.7",), captions=120, questioned=20),
    "mini": Shown(("m3id",), captions=500, questioned=150),
}
OTHER = Shown(("vhr",), captions=160, questioned=30)


def shown_model() -> tuple[str, str]:
    """Return the embedded model to show, and why it is not the better one; the reason is empty where it is."""
    from vlm_evals.scenes.small.package import installed_file, shipped_weights

    from vlm_heads.errors import UnknownModel

    try:
        installed_file()
        shipped_weights()
    except UnknownModel as reason:
        return "mini", str(reason)
    return "small", ""
