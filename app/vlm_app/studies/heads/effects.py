"""Means over scenes with their intervals: what is behind every number that the study reports.

Every array of means holds 1 + `RESAMPLES` of them in its first dimension: over the scenes as they are, and over scenes
drawn with replacement. So whatever is made of means has its interval, and two numbers are compared on the same draws.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from vlm_app.studies.heads.asked import KINDS
from vlm_app.studies.heads.blocks import GAINS
from vlm_app.studies.heads.halves import HALVES, chosen_by_vhd
from vlm_app.studies.heads.looking import LOOKS
from vlm_app.studies.heads.routes import ROUTES

RESAMPLES = 1000
# What tells right from wrong: a difference of two kinds of place.
CONTRASTS = {"grounding": ("faithful", "invented"), "discernment": ("present", "absent")}
ASPECTS = (*KINDS, *CONTRASTS)
TOGETHER = ("at once", "sum")

Numbers = NDArray[np.float64]
Interval = dict[str, float | None]


@dataclass(frozen=True)
class Effects:
    """All that was measured, as means over scenes.

    An aspect is a kind of place, or the difference of two kinds.

    Attributes:
        counts: places of each kind; of a difference, of the rarer kind.
        values: `[1 + R]` by aspect, what the plain model gives.
        changes: `[1 + R, L, Hq]` by gain and aspect, what each head's gain adds to that.
        told: `[1 + R, L, Hq]` by route and aspect, what each head tells for the decision directly.
        looks: `[1 + R, L, Hq]` by name, VHD and image mass.
        halves: `[2, L, Hq]` by gain and aspect: the changes over even scenes, and over odd ones.
        together: `[1 + R]` by gain, half of the heads, "at once" or "sum", and aspect: what is added where all heads
            of the half on some layers are gained at once, and the sum of what each adds alone.
    """

    counts: Mapping[str, int]
    values: Mapping[str, Numbers]
    changes: Mapping[tuple[str, str], Numbers]
    told: Mapping[tuple[str, str], Numbers]
    looks: Mapping[str, Numbers]
    halves: Mapping[tuple[str, str], Numbers]
    together: Mapping[tuple[str, str, str, str], Numbers]


def effects(blocks: Sequence[Mapping[str, Any]], layers: Collection[int], seed: int) -> Effects:
    """Return the means over the scenes of all blocks.

    Args:
        blocks: what `Block.found` returns.
        layers: of the heads that were gained together.
        seed: draws the resamples.
    """
    starts = np.cumsum([0, *(block["scenes"] for block in blocks)])
    total = int(starts[-1])
    places = [(place, start) for block, start in zip(blocks, starts, strict=False) for place in block["places"]]
    scene = np.array([start + place["scene"] for place, start in places], dtype=np.int64)
    kind = np.array([place["kind"] for place, _ in places])
    values = np.array([place["value"] for place, _ in places], dtype=np.float64)
    drawn = _drawn(total, seed)
    halves = np.stack([np.arange(total) % 2 == half for half in (0, 1)]).astype(np.float64)

    def by_aspect(numbers: Numbers, weights: Numbers) -> dict[str, Numbers]:
        means = {name: mean_over(numbers[..., kind == name], weights[:, scene[kind == name]]) for name in KINDS}
        return means | {name: means[right] - means[wrong] for name, (right, wrong) in CONTRASTS.items()}

    def at_once(gain: str, half: str) -> Numbers:
        return np.concatenate([np.array(block["together"][gain][half], dtype=np.float64) for block in blocks])

    def sums(gain: str, half: str) -> Numbers:
        """Add up what the heads add alone that were chosen by the VHD of the place's own scene."""
        total: Numbers = (changes[gain] * chosen[half][..., scene]).sum(axis=(0, 1))
        return total

    counts = {name: int((kind == name).sum()) for name in KINDS}
    changes = {gain: _joined(blocks, gain) for gain in GAINS}
    told = {route: _joined(blocks, route) for route in ROUTES}
    chosen = chosen_by_vhd(_joined(blocks, "vhd"), layers)
    return Effects(
        counts=counts | {name: min(counts[one] for one in both) for name, both in CONTRASTS.items()},
        values=by_aspect(values, drawn),
        changes={(gain, name): one for gain in GAINS for name, one in by_aspect(changes[gain], drawn).items()},
        told={(route, name): one for route in ROUTES for name, one in by_aspect(told[route], drawn).items()},
        looks={name: mean_over(_joined(blocks, name), drawn) for name in LOOKS},
        halves={(gain, name): one for gain in GAINS for name, one in by_aspect(changes[gain], halves).items()},
        together={
            (gain, half, how, name): one
            for gain in GAINS
            for half in HALVES
            for how, numbers in zip(TOGETHER, (at_once(gain, half), sums(gain, half)), strict=True)
            for name, one in by_aspect(numbers, drawn).items()
        },
    )


def mean_over(numbers: Numbers, weights: Numbers) -> Numbers:
    """Return weighted means `[W, ...]` over the last dimension of `[..., n]`; not a number where all weights are 0.

    Args:
        numbers: `[..., n]`.
        weights: `[W, n]`.
    """
    sums = np.tensordot(weights, numbers, axes=(1, -1))
    counts = weights.sum(axis=1).reshape(-1, *[1] * (sums.ndim - 1))
    with np.errstate(invalid="ignore"):
        found: Numbers = sums / counts
    return found


def interval(means: Numbers) -> Interval:
    """Return the estimate and the 95 % interval of `[1 + R]` means; None where there is nothing to take a mean of."""
    drawn = means[1:][~np.isnan(means[1:])]
    if np.isnan(means[0]) or not len(drawn):
        return {"estimate": None, "low": None, "high": None}
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"estimate": float(means[0]), "low": float(low), "high": float(high)}


def agreement(one: Numbers, other: Numbers) -> dict[str, Numbers]:
    """Return Spearman's correlations `[W]` of scores `[W, L, Hq]`: over all heads, and the mean of those in a layer.

    Not a number where a score is the same everywhere; such layers are left out of the mean.
    """
    inside = _spearman(one, other)
    known = ~np.isnan(inside)
    with np.errstate(invalid="ignore"):
        within = np.where(known, inside, 0.0).sum(axis=-1) / known.sum(axis=-1)
    flat = (len(one), -1)
    return {"all": _spearman(one.reshape(flat), other.reshape(flat)), "within_layers": within}


def _spearman(one: Numbers, other: Numbers) -> Numbers:
    """Return the correlation of ranks over the last dimension, ties at their mean rank."""
    ranks = [rankdata(scores, axis=-1) for scores in (one, other)]
    left, right = (rank - rank.mean(axis=-1, keepdims=True) for rank in ranks)
    size = np.sqrt((left**2).sum(axis=-1) * (right**2).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        found: Numbers = (left * right).sum(axis=-1) / size
    return found


def _drawn(scenes: int, seed: int) -> Numbers:
    """Return `[1 + R, S]`: how often each scene counts, once in the first row."""
    even = np.full(scenes, 1 / scenes)
    drawn = np.random.default_rng(seed).multinomial(scenes, even, size=RESAMPLES)
    return np.concatenate([np.ones((1, scenes)), drawn])


def _joined(blocks: Sequence[Mapping[str, Any]], name: str) -> Numbers:
    """Return an array of all blocks, `[L, Hq, n]`."""
    return np.concatenate([np.array(block[name], dtype=np.float64) for block in blocks], axis=-1)
