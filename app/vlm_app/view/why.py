"""Why a word was said: what it was chosen from, plain beside mitigated, and which heads told for it by which route."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from vlm_app.view.steps import Step

MOST_HEADS = 8


@dataclass(frozen=True)
class Candidate:
    """One token that could have been said.

    Attributes:
        text: as it reads.
        chance: its probability.
        said: whether it is the one that was said.
    """

    text: str
    chance: float
    said: bool


@dataclass(frozen=True)
class Route:
    """What one head told for the word over the other, in logits.

    Attributes:
        layer, head: which.
        image: through the picture's keys.
        text: through all other keys.
        acted: whether a method acted on it.
    """

    layer: int
    head: int
    image: float
    text: float
    acted: bool


@dataclass(frozen=True)
class Why:
    """Why a word was said.

    Attributes:
        word: that was said.
        side: "plain" or "mitigated", whose answer it belongs to.
        columns: title and candidates, plain first.
        against: the likeliest other word; what routes are told against.
        routes: of the heads that were acted on, or else of those that told most.
        unread: why heads are not told as words; empty where they are.
        apart: whether a second stream has a part in what was said and none in what is shown.
    """

    word: str
    side: str
    columns: tuple[tuple[str, tuple[Candidate, ...]], ...]
    against: str
    routes: tuple[Route, ...] = ()
    unread: str = ""
    apart: bool = False


def candidates(step: Step, texts: Sequence[str]) -> tuple[Candidate, ...]:
    """Return a step's candidates; the token that was said comes last where it is not among the likeliest.

    Args:
        step: of the token.
        texts: of the candidates, and of the token itself at the end.
    """
    found = [
        Candidate(text, chance, one == step.token) for text, (one, chance) in zip(texts, step.candidates, strict=False)
    ]
    return (*found, *(() if any(one.said for one in found) else (Candidate(texts[-1], step.chance, said=True),)))


def routes(step: Step, acted: Collection[tuple[int, int]]) -> tuple[Route, ...]:
    """Return what heads told, those that told most first: of the acted ones, or of all where none was acted on."""
    if step.image is None or step.text is None:
        return ()
    size = np.abs(step.image) + np.abs(step.text)
    places = list(acted) or [(int(layer), int(head)) for layer, head in np.ndindex(*size.shape)]
    places.sort(key=lambda place: -float(size[place]))
    return tuple(
        Route(*place, float(step.image[place]), float(step.text[place]), place in acted)
        for place in places[:MOST_HEADS]
    )


def why_html(found: Why | None) -> str:
    """Return why a word was said, as HTML; nothing where nothing is known."""
    if found is None:
        return ""
    tables = "".join(_table(title, rows) for title, rows in found.columns)
    apart = (
        '<p class="vh-note">The second stream has a part in what was said, and none in these numbers.</p>'
        if found.apart
        else ""
    )
    return (
        f'<section class="vh-why" aria-label="Why this word"><p class="vh-what">Why <b>“{escape(found.word)}”</b> in '
        f"the {escape(found.side)} answer? What could have been said here, with its probability.</p>"
        f'<div class="vh-pair">{tables}</div>{apart}{_routes(found)}</section>'
    )


def _table(title: str, rows: Sequence[Candidate]) -> str:
    lines = "".join(
        f'<tr{" class=vh-said-row" if one.said else ""}><th scope="row">{escape(one.text)}'
        f"{'<span class=vh-said> (said)</span>' if one.said else ''}</th>"
        f'<td><i style="--share:{one.chance:.4f}" aria-hidden="true"></i></td><td>{100 * one.chance:.1f} %</td></tr>'
        for one in rows
    )
    return f'<table class="vh-candidates"><caption>{escape(title)}</caption><tbody>{lines}</tbody></table>'


def _routes(found: Why) -> str:
    if found.unread:
        return f'<p class="vh-note">Heads are not read as words: {escape(found.unread)}.</p>'
    if not found.routes:
        return ""
    top = max(1e-9, *(max(abs(one.image), abs(one.text)) for one in found.routes))
    which = "the heads that were acted on" if found.routes[0].acted else "the heads that told most"
    rows = "".join(
        f'<tr><th scope="row">layer {one.layer}, head {one.head}</th>{_bar(one.image, top)}{_bar(one.text, top)}</tr>'
        for one in found.routes
    )
    title = f"What {which} told for “{found.word}” over “{found.against}”, in logits, directly"
    head = "<tr><th>head</th><th>through the picture</th><th>through the words</th></tr>"
    return (
        f'<table class="vh-routes"><caption>{escape(title)}</caption><thead>{head}</thead><tbody>{rows}</tbody></table>'
    )


def _bar(value: float, top: float) -> str:
    side = "vh-for" if value >= 0 else "vh-against"
    shown = f"{round(value, 2) + 0.0:+.2f}"
    return f'<td><i class="{side}" style="--share:{abs(value) / top:.3f}" aria-hidden="true"></i>{shown}</td>'
