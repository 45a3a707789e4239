"""What is true of the answers, as HTML: short lists, and the picture with a box for each object."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vlm_app.view import words
from vlm_app.view.html import data_uri
from vlm_app.view.truth import Judged, Replied, Truth


def truth(found: Truth | None) -> str:
    """Return the picture's objects and each answer's lists; nothing where nobody knows what the picture shows."""
    if found is None:
        return ""
    names = _objects(found, found.objects, "vh-there")
    sides = "".join(_replied(one, found) if isinstance(one, Replied) else _judged(one, found) for one in found.sides)
    return (
        f'<section class="vh-truth" aria-label="What is true"><h2>What is in the picture</h2>{_picture(found)}'
        f'<div class="vh-lists">{names}{sides}</div></section>'
    )


def _picture(found: Truth) -> str:
    """Return the picture with every object's boxes, which are drawn when the object is pointed at."""
    width, height = found.picture.size
    rects = "".join(
        f'<rect data-boxed="{escape(name)}" x="{left * width:.1f}" y="{top * height:.1f}" width="{wide * width:.1f}" '
        f'height="{tall * height:.1f}"/>'
        for name, boxes in found.boxes.items()
        if name in found.objects
        for left, top, wide, tall in boxes
    )
    return (
        f'<svg class="vh-boxes" viewBox="0 0 {width} {height}" role="img" aria-label="The picture">'
        f'<image href="{data_uri(found.picture)}" width="{width}" height="{height}"/>{rects}</svg>'
    )


def _judged(one: Judged, found: Truth) -> str:
    kinds = ("vh-there", "vh-there vh-missed", "vh-not-there")
    rows = "".join(
        f"<div><dt>{title}</dt><dd>{_objects(found, names, kind) if names else 'nothing'}</dd></div>"
        for (title, names), kind in zip(one.lists, kinds, strict=True)
    )
    return f'<div class="vh-side"><h3>{escape(one.title)}</h3><dl>{rows}</dl></div>'


def _replied(one: Replied, found: Truth) -> str:
    return f'<div class="vh-side"><h3>{escape(one.title)}</h3><p class="vh-reply">{escape(words.reply(one))}</p></div>'


def _objects(found: Truth, names: Sequence[str], kind: str) -> str:
    """Return objects as buttons: their boxes are drawn while they are pointed at or have the keyboard."""
    return f'<ul class="vh-objects">{"".join(f"<li>{_object(found, name, kind)}</li>" for name in names)}</ul>'


def _object(found: Truth, name: str, kind: str) -> str:
    where = "" if found.boxes.get(name) else "; where it lies is not known" if name in found.objects else ""
    title = f' title="{escape(name + where)}"' if where else ""
    return f'<button type="button" class="vh-object {kind}" data-object="{escape(name)}"{title}>{escape(name)}</button>'
