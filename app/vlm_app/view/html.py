"""What is shown of a run, as HTML: answers with their marks, strips of tokens, maps of heads, overlays.

Every text that comes from a visitor or a model is escaped. Colours are the style sheet's; here is structure alone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_app.view import words
from vlm_app.view.asked import conversation
from vlm_app.view.facts import Column, HeadMap, Patches, Strip, Undrawn
from vlm_app.view.legend import term
from vlm_app.view.marks import Named

SHOWN_SIDE = 560  # pixels of a picture's longer side on the page


def note(text: str, kind: str = "quiet") -> str:
    """Return one line for a visitor; kind is "quiet" or "mistake"."""
    role = ' role="alert"' if kind == "mistake" else ""
    return f'<p class="vh-note vh-{kind}"{role}>{escape(text)}</p>'


def older(changed: Sequence[str]) -> str:
    """Return the line above answers of other settings than those that are chosen now; nothing where they agree."""
    if not changed:
        return ""
    return (
        '<p class="vh-note vh-older" role="status"><b>Settings changed</b> since these answers: '
        f"{escape('; '.join(changed))}. Press Run to ask again.</p>"
    )


def header(title: str, model: str) -> str:
    """Return the top of the page."""
    return (
        f'<header class="vh-top"><h1>{escape(title)}</h1><p>What a vision-language model looks at, and what mitigation '
        f'changes.</p><p class="vh-quiet">{escape(model)}</p></header>'
    )


def card(label: str, title: str, cost: str) -> str:
    """Return the top of a method's card."""
    return f"<h2>{escape(label)}</h2><p>{escape(title)}</p><p>{escape(cost)}</p>"


def answer(column: Column | None) -> str:
    """Return one column: the text with its marks, what it named, how fast it was, what the interventions did."""
    if column is None:
        return ""
    side = column.side
    busy = "" if side.done else " vh-busy"
    body = marked_text(side.text, column.named, column.changed)
    waiting = "" if side.done else '<span class="vh-quiet">…</span>'
    lines = [f'<p class="vh-objects">{_objects(column)}</p>' if side.text and side.done else ""]
    lines += [f'<p class="vh-receipt">{escape(words.deed(one))}</p>' for one in column.deeds]
    failure = note(side.failure, "mistake") if side.failure else ""
    return (
        f'<article class="vh-answer{busy}" aria-busy="{str(not side.done).lower()}"><h2>{escape(column.title)}</h2>'
        f'<p class="vh-text" aria-live="off">{body or waiting}</p>{failure}{conversation(column.asked)}'
        f'<footer><p class="vh-speed">{escape(words.speed(side))}</p>{"".join(lines)}</footer></article>'
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


def thumbnails(pictures: Mapping[str, Image.Image], chosen: str) -> str:
    """Return the samples as a row of buttons."""
    buttons = [
        f'<button type="button" class="vh-thumb" data-pick="{escape(name)}" '
        f'aria-pressed="{str(name == chosen).lower()}">'
        f'<img alt="" src="{data_uri(picture)}"><span>{escape(name)}</span></button>'
        for name, picture in pictures.items()
    ]
    return f'<div class="vh-thumbs" role="group" aria-label="Sample pictures">{"".join(buttons)}</div>'


def strips(answers: Sequence[Strip]) -> str:
    """Return the tokens of answers as buttons, coloured by T-VHD; arrow keys walk along them."""
    used = [one.most for one in answers if one.used is not None]
    if used:
        title = '<p class="vh-what">Which words used the chosen patch; choose it again to see T-VHD.</p>'
        return title + "".join(map(_strip, answers)) + _scale("0 % of a word's attention", f"{100 * used[0]:.1f} %")
    title = f'<p class="vh-what">Which words leaned on the image: {term("T-VHD", "strips")} of every token.</p>'
    return title + "".join(map(_strip, answers)) + _scale("leaned less on the image", "more")


def head_map(found: HeadMap) -> str:
    """Return layers (down) by heads (across) as a grid of buttons; arrow keys walk over it."""
    layers, heads = found.scores.shape
    rows = []
    for layer in range(layers):
        cells = "".join(_head(found, layer, head) for head in range(heads))
        rows.append(f'<div class="vh-row"><span class="vh-axis">{layer}</span>{cells}</div>')
    numbers = "".join(
        f'<span class="vh-axis">{head if head % max(1, heads // 8) == 0 else ""}</span>' for head in range(heads)
    )
    acted = f'<i class="vh-dot" aria-hidden="true"></i>{term("acted on", "map")}'
    return (
        f'<p class="vh-what">How much each {term("head", "map")} looks at the image: {term("VHD", "map")}</p>'
        f'<div class="vh-axes"><span class="vh-axis vh-down" aria-hidden="true">layer</span>'
        f'<div class="vh-map vh-walk" style="--heads:{heads}" role="group" '
        f'aria-label="VHD of every head, layers down, heads across">{"".join(rows)}'
        f'<div class="vh-row" aria-hidden="true"><span class="vh-axis"></span>{numbers}</div></div>'
        '<span class="vh-axis vh-across" aria-hidden="true">head</span></div>'
        '<p class="vh-hover" aria-hidden="true">Point at a head, or walk with the arrow keys.</p>'
        + (f'<p class="vh-scale">{acted}</p>' if found.acted else "")
        + _scale("VHD 0", f"{float(found.scores.max()):.2f}")
    )


def patches(found: Patches | Undrawn) -> str:
    """Return the picture twice, with what was used before and after laid over it; or why that cannot be drawn."""
    if isinstance(found, Undrawn):
        return note(f"Cannot be drawn: {found.reason}.")
    what = found.looked_at
    figures = "".join(_overlay(found, title, weights) for title, weights in found.maps)
    return (
        f'<p class="vh-what">Patches used for <b>“{escape(what.word)}”</b> of the {escape(what.side)} answer: '
        f'{words.heads(what)}.</p><div class="vh-pair">{figures}</div>'
        f'<p class="vh-note"><span class="vh-patch" aria-hidden="true"></span> more attention, one scale for both. '
        f"{term('sink', 'patches').replace('>sink<', '>Sinks<', 1)}: {escape(words.sinks(found))}</p>"
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


def _objects(column: Column) -> str:
    if not column.checked:
        return "Objects not checked: what this picture shows is not known here."
    nodes = {one.node: one.shown for one in column.named}
    absent = [node for node, shown in nodes.items() if shown is False]
    if not nodes:
        return "No object named."
    if not absent:
        return f"{words.count(len(nodes), 'object')} named, all in the picture."
    return f"{words.count(len(nodes), 'object')} named, <b>not in the picture: {escape(', '.join(absent))}</b>"


def _strip(strip: Strip) -> str:
    buttons = []
    for place, one in strip.spoken:
        absent = " vh-absent-token" if strip.absent(one) else ""
        said = escape(words.token(strip, place))
        buttons.append(
            f'<button type="button" class="vh-token{absent}" style="--level:{strip.level(place):.3f}" '
            f'data-side="{strip.side}" data-token="{place}" tabindex="{0 if place == (strip.chosen or 0) else -1}" '
            f'aria-pressed="{str(place == strip.chosen).lower()}" title="{said}" aria-label="{said}">'
            f"{escape(one.text.strip())}</button>"
        )
    label = f"{strip.side.capitalize()} answer"
    return (
        f'<div class="vh-strip"><h3>{label}</h3><div class="vh-tokens vh-walk" role="group" '
        f'aria-label="Tokens of the {label.lower()}, by T-VHD">{"".join(buttons)}</div></div>'
    )


def _scale(low: str, high: str) -> str:
    """Return the legend of a colour scale."""
    return f'<p class="vh-scale"><span>{escape(low)}</span><i aria-hidden="true"></i><span>{escape(high)}</span></p>'


def _head(found: HeadMap, layer: int, head: int) -> str:
    said = words.head(found, layer, head)
    level = float(found.scores[layer, head]) / max(float(found.scores.max()), 1e-9)
    first = (layer, head) == (found.chosen or (0, 0))
    acted = " vh-acted" if (layer, head) in found.acted else ""
    return (
        f'<button type="button" class="vh-head{acted}" style="--level:{level:.3f}" '
        f'data-layer="{layer}" data-head="{head}" tabindex="{0 if first else -1}" '
        f'aria-pressed="{str((layer, head) == found.chosen).lower()}" aria-label="{said}" title="{said}"></button>'
    )


def _overlay(found: Patches, title: str, weights: NDArray[np.float64]) -> str:
    """Return the picture with each position's weight laid over it, sinks outlined; every position is a button."""
    width, height = found.picture.size
    cells = "".join(_cell(found, position, weight) for position, weight in enumerate(weights.tolist()))
    total = words.on_image(found, title, float(weights.sum()))
    return (
        f'<figure class="vh-overlay"><figcaption><b>{escape(title)}</b><span>{total}</span></figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="group" aria-label="{escape(title)}: {total}">'
        f'<image href="{data_uri(found.picture)}" width="{width}" height="{height}" aria-hidden="true"/>'
        f'<g class="vh-heat vh-walk" data-across="{found.grid.columns}">{cells}</g></svg></figure>'
    )


def _cell(found: Patches, position: int, weight: float) -> str:
    """Return one position of the picture: its weight as a colour, and a button that shows which words used it."""
    width, height = found.picture.size
    left, high, wide, tall = found.grid.box(position)
    opacity = min(1.0, weight / found.top) * 0.85
    sink = " class=vh-sink" if found.sinks is not None and found.sinks[position] else ""
    said = escape(words.patch(found, position, weight))
    return (
        f'<rect x="{left * width:.2f}" y="{high * height:.2f}" width="{wide * width:.2f}" height="{tall * height:.2f}" '
        f'fill-opacity="{opacity:.3f}"{sink} data-patch="{position}" role="button" '
        f'tabindex="{0 if position == (found.patch or 0) else -1}" '
        f'aria-pressed="{str(position == found.patch).lower()}" aria-label="{said}"><title>{said}</title></rect>'
    )
