"""Captions of two runs side by side, in which what the picture does not show is marked.

They are the first of each kind in the order of the run, and none is chosen: captions that invent less than before, and
captions that invent more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_evals.records import Score
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.places import object_spans

MOST = 3  # of each kind
LESS, MORE = "invents less", "invents more"
SAID = f"The first {MOST} of each kind, in the order of the run. **Bold**: not in the picture."


def examples(plain: Sequence[Score], other: Sequence[Score], finder: ObjectFinder) -> list[dict[str, Any]]:
    """Return captions that changed in what they invent, as plain data.

    Args:
        plain, other: scores of captions in the same order; those without their text give no example.
        finder: what the captions were read with.

    Returns:
        Per caption `image`, `kind`, and for `plain` and `mitigated` the `text` and the spans that are `invented`.
    """
    found: dict[str, list[dict[str, Any]]] = {LESS: [], MORE: []}
    for before, after in zip(plain, other, strict=True):
        if "caption" not in before.evidence or "caption" not in after.evidence:
            continue
        changed = _invented(after) - _invented(before)
        kind = found[MORE if changed > 0 else LESS]
        if changed and len(kind) < MOST:
            sides = {"plain": _shown(before, finder), "mitigated": _shown(after, finder)}
            kind.append({"image": before.key, "kind": MORE if changed > 0 else LESS, **sides})
    return [one for kind in found.values() for one in kind]


def marked_text(side: Mapping[str, Any]) -> str:
    """Return a caption as Markdown, what it invents in bold."""
    pieces, end = [], 0
    for first, last in side["invented"]:
        pieces += [_plain(side["text"][end:first]), f"**{_plain(side['text'][first:last])}**"]
        end = last
    return "".join([*pieces, _plain(side["text"][end:])])


def _invented(score: Score) -> int:
    return len(set(score.evidence["hallucinated"]))


def _shown(score: Score, finder: ObjectFinder) -> dict[str, Any]:
    text, invented = score.evidence["caption"], set(score.evidence["hallucinated"])
    spans = [[first, last] for first, last, node in object_spans(finder, text) if node in invented]
    return {"text": text, "invented": spans}


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it stands."""
    return "".join(f"\\{letter}" if letter in "\\*_`[]<" else letter for letter in text)
