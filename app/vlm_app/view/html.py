"""What the page shows, as HTML: answers with their marks, receipts in words, strips of tokens, maps of heads, overlays.

Every text that comes from a visitor or a model is escaped. Colours are the style sheet's; here is structure alone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from html import escape as escape
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_app.view.grid import Grid
from vlm_app.view.marks import Named
from vlm_app.view.side_by_side import Side
from vlm_heads import TokenGrounding

SHOWN_SIDE = 560  # pixels of a picture's longer side on the page


def note(text: str, kind: str = "quiet") -> str:
    """Return one line for a visitor; kind is "quiet" or "mistake"."""
    role = ' role="alert"' if kind == "mistake" else ""
    return f'<p class="vh-note vh-{kind}"{role}>{escape(text)}</p>'


def answer(
    title: str,
    side: Side,
    named: Sequence[Named],
    changed: Sequence[tuple[int, int]],
    receipt: Sequence[str] = (),
    checked: bool = True,
) -> str:
    """Return one column: the text with its marks, what it named, how fast it was, what the interventions did."""
    busy = "" if side.done else " vh-busy"
    body = marked_text(side.text, named, changed) or ("" if side.done else '<span class="vh-quiet">…</span>')
    lines = [f'<p class="vh-objects">{_objects(named, checked)}</p>' if side.text and side.done else ""]
    lines += [f'<p class="vh-receipt">{escape(line)}</p>' for line in receipt]
    failure = note(side.failure, "mistake") if side.failure else ""
    return (
        f'<article class="vh-answer{busy}" aria-busy="{str(not side.done).lower()}"><h3>{escape(title)}</h3>'
        f'<p class="vh-text" aria-live="off">{body}</p>{failure}'
        f'<footer><p class="vh-speed">{_speed(side)}</p>{"".join(lines)}</footer></article>'
    )


def marked_text(text: str, named: Sequence[Named], changed: Sequence[tuple[int, int]]) -> str:
    """Return a text in which objects and words that differ are marked."""
    cuts = {
        0,
        len(text),
        *(at for one in named for at in (one.start, one.end)),
        *(at for span in changed for at in span),
    }
    places = sorted(at for at in cuts if at <= len(text))
    pieces = []
    for start, end in pairwise(places):
        piece = escape(text[start:end])
        if any(low <= start and end <= high for low, high in changed):
            piece = f'<span class="vh-changed">{piece}</span>'
        for one in named:
            if one.start <= start and end <= one.end:
                piece = _object(piece, one)
        pieces.append(piece)
    return "".join(pieces)


def receipt_lines(receipt: Mapping[str, Any] | None, shares: Mapping[str, float] | None = None) -> list[str]:
    """Return what the interventions did, a line each: layers, heads, and how much weight was moved.

    Args:
        receipt: as `Answer` carries it.
        shares: by intervention, the share of the sinks' mass that it handed on, where that was measured.
    """
    lines = []
    for one in (receipt or {}).get("interventions", ()):
        heads = sum(count > 0 for counts in one["heads"].values() for count in counts)
        parts = [_count(len(one["layers"]), "layer")] + ([_count(heads, "head")] if heads else [])
        share = (shares or {}).get(one["name"])
        if share is not None:
            parts.append(f"{share:.0%} of the sinks' mass moved".replace("%", " %"))
        elif one["mass_moved"] is not None:
            parts.append(f"attention mass {one['mass_moved']:.1f} moved, over all heads and steps")
        lines.append(f"{one['name']}: {', '.join(parts)}")
    return lines


def thumbnails(pictures: Mapping[str, Image.Image], chosen: str) -> str:
    """Return the samples as a row of buttons."""
    buttons = [
        f'<button type="button" class="vh-thumb" data-pick="{escape(name)}" '
        f'aria-pressed="{str(name == chosen).lower()}">'
        f'<img alt="" src="{data_uri(picture)}"><span>{escape(name)}</span></button>'
        for name, picture in pictures.items()
    ]
    return f'<div class="vh-thumbs" role="group" aria-label="Sample pictures">{"".join(buttons)}</div>'


def token_strip(tokens: Sequence[TokenGrounding], named: Sequence[Named], side: str, chosen: int | None) -> str:
    """Return an answer's tokens as buttons, coloured by T-VHD; arrow keys walk along them."""
    scores = [one.t_vhd for one in tokens if one.text.strip()]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    buttons = []
    for place, one in enumerate(tokens):
        if not one.text.strip():
            continue
        level = (one.t_vhd - low) / max(high - low, 1e-9)
        absent = any(mark.shown is False and mark.start < one.end and one.start < mark.end for mark in named)
        said = f"{one.text.strip()}, T-VHD {one.t_vhd:.2f}" + (", not in the picture" if absent else "")
        buttons.append(
            f'<button type="button" class="vh-token{" vh-absent-token" if absent else ""}" style="--level:{level:.3f}" '
            f'data-side="{side}" data-token="{place}" tabindex="{0 if place == (chosen or 0) else -1}" '
            f'aria-pressed="{str(place == chosen).lower()}" title="{escape(said)}" aria-label="{escape(said)}">'
            f"{escape(one.text.strip())}</button>"
        )
    label = {"plain": "Plain answer", "mitigated": "Mitigated answer"}[side]
    return (
        f'<div class="vh-strip"><h4>{label}</h4><div class="vh-tokens vh-walk" role="group" '
        f'aria-label="Tokens of the {label.lower()}, by T-VHD">{"".join(buttons)}</div></div>'
    )


def scale(low: str, high: str) -> str:
    """Return the legend of a colour scale."""
    return f'<p class="vh-scale"><span>{escape(low)}</span><i aria-hidden="true"></i><span>{escape(high)}</span></p>'


def head_map(scores: NDArray[np.float32], acted: Collection[tuple[int, int]], chosen: tuple[int, int] | None) -> str:
    """Return layers (down) by heads (across) as a grid of buttons; arrow keys walk over it.

    Args:
        scores: VHD `[L, Hq]`.
        acted: (layer, head) pairs that an intervention acted on; they carry a dot.
        chosen: the head that is looked at.
    """
    layers, heads = scores.shape
    top = max(float(scores.max()), 1e-9)
    rows = []
    for layer in range(layers):
        cells = "".join(
            _head(layer, head, float(scores[layer, head]), top, (layer, head) in acted, chosen) for head in range(heads)
        )
        rows.append(f'<div class="vh-row"><span class="vh-axis">{layer}</span>{cells}</div>')
    numbers = "".join(
        f'<span class="vh-axis">{head if head % max(1, heads // 8) == 0 else ""}</span>' for head in range(heads)
    )
    return (
        f'<div class="vh-map vh-walk" style="--heads:{heads}" role="group" '
        f'aria-label="VHD of every head, layers down, heads across">{"".join(rows)}'
        f'<div class="vh-row"><span class="vh-axis"></span>{numbers}</div></div>'
        '<p class="vh-hover" aria-hidden="true">Point at a head, or walk with the arrow keys.</p>'
        + ('<p class="vh-scale"><i class="vh-dot" aria-hidden="true"></i>acted on</p>' if acted else "")
    )


def overlay(
    title: str,
    picture: Image.Image,
    grid: Grid,
    weights: NDArray[np.float64],
    top: float,
    sinks: NDArray[np.int64] | None = None,
) -> str:
    """Return a picture with each position's weight laid over it, sinks outlined.

    Args:
        title: above it.
        picture: upright.
        grid: where the positions lie.
        weights: `[N]`.
        top: the weight that is fully coloured; the same for pictures that are compared.
        sinks: `[N]`, in how many layers each position is a sink.
    """
    width, height = picture.size
    layers = np.zeros(len(weights), dtype=np.int64) if sinks is None else sinks
    cells = []
    for position, (weight, sink) in enumerate(zip(weights.tolist(), layers.tolist(), strict=True)):
        left, high, wide, tall = grid.box(position)
        said = f"patch {position}: {weight:.4f}" + (f"; a sink in {_count(sink, 'layer')}" if sink else "")
        cells.append(
            f'<rect x="{left * width:.2f}" y="{high * height:.2f}" width="{wide * width:.2f}" '
            f'height="{tall * height:.2f}" fill-opacity="{min(1.0, weight / max(top, 1e-9)) * 0.85:.3f}"'
            f"{' class=vh-sink' if sink else ''}><title>{said}</title></rect>"
        )
    total = f"weight on the image {weights.sum():.3f}"
    return (
        f'<figure class="vh-overlay"><figcaption><b>{escape(title)}</b><span>{total}</span></figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}: {total}">'
        f'<image href="{data_uri(picture)}" width="{width}" height="{height}"/><g class="vh-heat">{"".join(cells)}</g>'
        "</svg></figure>"
    )


def data_uri(picture: Image.Image) -> str:
    """Return a picture, at most as large as it is shown, for an HTML attribute."""
    small = picture.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    content = io.BytesIO()
    small.save(content, "PNG" if max(small.size) <= 128 else "JPEG", quality=88)
    kind = "png" if max(small.size) <= 128 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def _object(piece: str, one: Named) -> str:
    if one.shown is None:
        return f'<span class="vh-unchecked" title="{escape(one.node)}: not checked">{piece}</span>'
    if one.shown:
        return f'<span class="vh-shown" title="{escape(one.node)}: in the picture">{piece}</span>'
    return (
        f'<mark class="vh-absent" title="{escape(one.node)}: not in the picture">{piece}'
        '<span class="vh-said"> (not in the picture)</span></mark>'
    )


def _objects(named: Sequence[Named], checked: bool) -> str:
    if not checked:
        return "Objects not checked: what this picture shows is not known here."
    nodes = {one.node: one.shown for one in named}
    absent = [node for node, shown in nodes.items() if shown is False]
    if not nodes:
        return "No object named."
    if not absent:
        return f"{_count(len(nodes), 'object')} named, all in the picture."
    return f"{_count(len(nodes), 'object')} named, <b>not in the picture: {escape(', '.join(absent))}</b>"


def _speed(side: Side) -> str:
    if not side.tokens:
        return "" if side.done else "waiting"
    return f"{side.seconds:.2f} s · {_count(side.tokens, 'token')} · {side.rate:.0f} tokens/s"


def _head(layer: int, head: int, score: float, top: float, acted: bool, chosen: tuple[int, int] | None) -> str:
    said = f"layer {layer}, head {head}, VHD {score:.3f}" + (", acted on" if acted else "")
    first = (layer, head) == (chosen or (0, 0))
    return (
        f'<button type="button" class="vh-head{" vh-acted" if acted else ""}" style="--level:{score / top:.3f}" '
        f'data-layer="{layer}" data-head="{head}" tabindex="{0 if first else -1}" '
        f'aria-pressed="{str((layer, head) == chosen).lower()}" aria-label="{said}" title="{said}"></button>'
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
