"""A run as one HTML file that needs no server and no network: words, heads and objects answer as on the page."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_app.view import html, words
from vlm_app.view.facts import Column, Patches
from vlm_app.view.inside import Inside
from vlm_app.view.legend import legend
from vlm_app.view.recipe import Recipe
from vlm_app.view.truth import Truth
from vlm_app.view.truth_html import truth as truth_html
from vlm_app.view.why import why_html

MOST_WEIGHTS = 6_000_000  # bytes of one answer's weights; beyond it the file keeps some heads alone
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_PLACES = ("strips", "heads", "overlays", "why")


def standalone(recipe: Recipe, model: str, columns: Sequence[Column], truth: Truth | None, inside: Inside) -> str:
    """Return the file of a run.

    Args:
        recipe: of the run.
        model: by name.
        columns: the answers.
        truth: of the answers; None where nobody knows.
        inside: what was looked at, all answers watched.
    """
    shown = copy.copy(inside)  # what is picked for the file stays in the file
    shown.head = shown.patch = None
    views = dict(zip(_PLACES, _views(shown), strict=True))  # first: what is looked at now is what the file opens on
    data = json.dumps({"sides": {side: _side(shown, side) for side in shown.said}}).replace("</", "<\\/")
    asked = f"{model}: {recipe.prompt}"
    body = "".join(
        [
            html.header("vlm-heads", asked),
            '<div class="vh-columns vh-alone">' + "".join(html.answer(column) for column in columns) + "</div>",
            truth_html(truth),
            legend(),
            *(f'<div id="vh-{name}">{text}</div>' for name, text in views.items()),
            f"<h2>Ask again</h2><pre>{escape(recipe.command(model))}</pre><pre>{escape(recipe.python(model))}</pre>",
        ]
    )
    style = _asset("page.css") + _asset("parts.css") + _asset("standalone.css")
    script = _asset("standalone.js").replace("/* page.js */", _asset("page.js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{escape(asked)}</title>'
        f'<style>{style}</style></head><body><main class="gradio-container">{body}</main>'
        f'<script type="application/json" id="vh-data">{data}</script><script>{script}</script></body></html>\n'
    )


def _views(shown: Inside) -> tuple[str, str, str, str]:
    return (
        html.strips(shown.strips()),
        html.head_map(shown.heads()),
        html.patches(shown.patches()),
        why_html(shown.why()),
    )


def _side(shown: Inside, side: str) -> dict[str, Any]:
    """Return what the file needs of one answer: for every token what is said of it, and where it looked."""
    shown.side = side
    texts, whys = [], []
    for token in range(len(shown.said[side].tokens)):
        shown.token = token
        texts.append(words.looked_at(shown.looked_at()))
        whys.append(why_html(shown.why()))
    kept = _kept_heads(shown, side)
    scores = shown.profile.scores.numpy()
    looks = [] if shown.grid is None else shown.looks(side)
    maps = [_packed(_table(one.weights, scores, kept)) for one in looks]
    return {"said": texts, "why": whys, "heads": kept, "maps": maps, "tokens": len(texts), "captions": _captions(shown)}


def _table(weights: NDArray[np.float16], scores: NDArray[np.float32], kept: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Return float32 `[T, 1 + heads, N]`: all heads counted by their VHD, then each of the kept ones."""
    share = scores / max(float(scores.sum()), 1e-12)
    together = np.einsum("lh,tlhn->tn", share, weights.astype(np.float32))
    each = [weights[:, layer, head].astype(np.float32) for layer, head in kept]
    return np.stack([together, *each], axis=1)


def _packed(table: NDArray[Any]) -> dict[str, Any]:
    """Return a table in 8 bits a number, with the largest number."""
    top = max(float(table.max()), 1e-9)
    small = np.round(table / top * 255).astype(np.uint8)
    return {"top": top, "positions": table.shape[-1], "bytes": base64.b64encode(small.tobytes()).decode()}


def _kept_heads(shown: Inside, side: str) -> list[tuple[int, int]]:
    """Return the heads whose weights the file keeps: all, or those acted on and those that look most at the image."""
    scores = shown.profile.scores.numpy()
    order = [divmod(int(place), scores.shape[1]) for place in np.argsort(-scores, axis=None, kind="stable")]
    order.sort(key=lambda place: place not in shown.acted)
    looks = shown.looks(side)
    each = looks[0].weights.shape[0] * looks[0].weights.shape[-1] if looks else 1
    return sorted(order[: max(1, MOST_WEIGHTS // max(1, each))])


def _captions(shown: Inside) -> list[str]:
    """Return the captions of the maps, with `#` for the percent; of all heads, then of one."""
    found = []
    for head in (None, (0, 0)):
        shown.head = head
        patches = shown.patches()
        if isinstance(patches, Patches):
            found += [words.on_image(patches, title, 0.0).replace("0 %", "# %", 1) for title, _ in patches.maps]
    shown.head = None
    return found


def _asset(name: str) -> str:
    return files("vlm_app").joinpath("assets", name).read_text("utf-8")
