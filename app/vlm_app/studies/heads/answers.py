"""What the means say: which heads matter, whether VHD names them, and what doubling does to inventions."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlm_app.studies.heads.asked import KINDS
from vlm_app.studies.heads.blocks import GAINS
from vlm_app.studies.heads.effects import ASPECTS, TOGETHER, Effects, Interval, Numbers, agreement, interval
from vlm_app.studies.heads.halves import HALVES, Bools, halves_by_vhd
from vlm_app.studies.heads.routes import ROUTES

STRONGEST = 5
BANDS = 4
# A name of what a head does, the aspect that shows it, and the sign of what its ablation adds there.
DOES = {
    "sees": ("faithful", -1),
    "affirms": ("present", -1),
    "rejects": ("absent", 1),
    "discerns": ("discernment", -1),
    "invents": ("invented", -1),
}


def strongest(found: Effects) -> dict[str, list[dict[str, Any]]]:
    """Return by what they do the heads whose ablation takes most of it, the strongest first.

    Each has the `change` that its ablation makes and that its `doubling` makes, its place by VHD in its layer from 1
    on, and what it tells `image` and `text` directly.
    """
    rank = 1 + (-found.looks["vhd"][0]).argsort(axis=1).argsort(axis=1)
    listed: dict[str, list[dict[str, Any]]] = {}
    for does, (aspect, sign) in DOES.items():
        change = found.changes["ablation", aspect]
        order = np.argsort(-sign * change[0], axis=None)[: STRONGEST if found.counts[aspect] else 0]
        listed[does] = [
            {
                "layer": int(layer),
                "head": int(head),
                "change": interval(change[:, layer, head]),
                "doubling": interval(found.changes["doubling", aspect][:, layer, head]),
                "vhd_rank": int(rank[layer, head]),
                **{route: float(found.told[route, aspect][0, layer, head]) for route in ROUTES},
            }
            for layer, head in zip(*np.unravel_index(order, rank.shape), strict=True)
        ]
    return listed


def ranking(found: Effects) -> list[dict[str, Any]]:
    """Return how well each score ranks heads by what their ablation takes, and doubling adds: Spearman's correlations.

    The score `image_route` is what a head tells directly from the picture, for the same aspect. `halves` ranks
    by what was found on even scenes what was found on odd ones: no score can do much better.
    """
    rows = []
    for does, (aspect, sign) in DOES.items():
        scores = {**found.looks, "image_route": -sign * found.told["image", aspect]}
        aims = {
            "ablation": sign * found.changes["ablation", aspect],
            "doubling": -sign * found.changes["doubling", aspect],
        }
        for gain, aim in aims.items():
            halves = agreement(*(one[None] for one in sign * found.halves[gain, aspect]))
            for name, score in scores.items():
                agreed = {key: interval(value) for key, value in agreement(score, aim).items()}
                own = {key: _number(value[0]) for key, value in halves.items()}
                rows.append({"score": name, "does": does, "gain": gain, **agreed, "halves": own})
    return rows


def bands(found: Effects) -> list[dict[str, Any]]:
    """Return what one head's gain adds on average, of each layer's upper half by VHD and of as many of the lowest.

    First over all layers, then by bands of neighbouring layers. `difference` is upper less lower.
    """
    chosen = halves_by_vhd(found.looks["vhd"][0])
    depth = len(found.looks["vhd"][0])
    parts = [range(depth), *(part.tolist() for part in np.array_split(np.arange(depth), min(BANDS, depth)))]
    rows = []
    for layers in parts:
        inside = np.isin(np.arange(depth), layers)[:, None]
        row: dict[str, Any] = {"layers": [int(layers[0]), int(layers[-1])]}
        for gain in GAINS:
            row[gain] = {"upper": {}, "lower": {}, "difference": {}}
            for aspect in ASPECTS:
                changes = found.changes[gain, aspect]
                above, below = (_over(changes, chosen[half] & inside) for half in HALVES)
                for half, means in (("upper", above), ("lower", below), ("difference", above - below)):
                    row[gain][half][aspect] = interval(means)
        rows.append(row)
    return rows


def together(found: Effects) -> dict[str, Any]:
    """Return what is added where all heads of a half are gained at once, and the `sum` of what each adds alone."""
    return {
        gain: {
            half: {
                how: {aspect: interval(found.together[gain, half, how, aspect]) for aspect in ASPECTS}
                for how in TOGETHER
            }
            for half in HALVES
        }
        for gain in GAINS
    }


def at_their_best(found: Effects) -> dict[str, Any]:
    """Return how many heads matter for faithful mentions, and how many of these see more when they are doubled.

    A head matters where the interval of what its ablation adds lies below zero. `by_chance`: how many would where no
    head did anything.
    """
    ablated, doubled = (_bounds(found.changes[gain, "faithful"]) for gain in GAINS)
    matters = ablated["high"] < 0
    return {
        "heads": int(matters.size),
        "matter": int(matters.sum()),
        "by_chance": 0.025 * matters.size,
        "doubling_helps": int((matters & (doubled["low"] > 0)).sum()),
        "doubling_harms": int((matters & (doubled["high"] < 0)).sum()),
    }


def directly(found: Effects) -> dict[str, dict[str, Interval]]:
    """Return by kind what all heads together tell for the decision directly, by route."""
    return {kind: {route: interval(found.told[route, kind].sum(axis=(1, 2))) for route in ROUTES} for kind in KINDS}


def _over(means: Numbers, heads: Bools) -> Numbers:
    """Return the mean over some heads, `[1 + R]`; not a number where there are none."""
    with np.errstate(invalid="ignore"):
        found: Numbers = means[:, heads].sum(axis=1) / heads.sum()
    return found


def _bounds(means: Numbers) -> dict[str, Numbers]:
    """Return the 95 % interval of every head, `[L, Hq]` each; 0 where nothing was measured."""
    low, high = np.quantile(np.nan_to_num(means[1:]), [0.025, 0.975], axis=0)
    return {"low": low, "high": high}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
