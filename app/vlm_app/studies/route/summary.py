"""What the gained places come to, with intervals over scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_app.studies.branches.summary import RESAMPLES, Numbers, mean_over_scenes
from vlm_app.studies.heads.asked import KINDS
from vlm_app.studies.route.again import CLASSES

SPOKEN = ("faithful", "invented", "stop")  # where the probability of all words is looked at


def summary(
    blocks: Sequence[Mapping[str, Any]], bands: Sequence[Sequence[int]], gain: float, seed: int
) -> dict[str, Any]:
    """Return what a gain does by band of layers and kind of place.

    Args:
        blocks: of scenes, as `measure` keeps them.
        bands: layers of each.
        gain: on the image's route.
        seed: of the resamples of scenes.

    Returns:
        counts: places by kind.
        plain: by kind, the mean of what the plain model gives the deciding word, in nats; of a question, the log-odds.
        changes: by what is gained, "all" or the number of a band, and kind, the mean change; and, as `apart`, that of
            faithful less that of invented mentions.
        told: by what is gained and kind, the mean of what the extra image route tells directly for the deciding word
            against the other objects' words, and as `came` what comes of it behind the last layer.
        shares: by kind where words are looked at, for each class of words the plain probability and its change under
            the gain on all layers.
    """
    places = [place for block in blocks for place in block["places"]]
    kind = np.array([place["kind"] for place in places])
    scene = np.array([place["scene"] for place in places])
    told = np.concatenate([np.array(block["told"]) for block in blocks], axis=1)
    names = {"all": [layer for band in bands for layer in band]}
    names |= {f"band {number}": list(band) for number, band in enumerate(bands)}

    def mean(values: Numbers, chosen: NDArray[np.bool_]) -> dict[str, float] | None:
        return mean_over_scenes(values, chosen, scene, seed)

    plain = {figure: _all(blocks, "plain", figure) for figure in ("values", "against", "shares")}
    changes: dict[str, Any] = {}
    direct: dict[str, Any] = {}
    for name, layers in names.items():
        moved = {figure: _all(blocks, name, figure) - plain[figure] for figure in ("values", "against")}
        changes[name] = {one: mean(moved["values"], kind == one) for one in (*KINDS, "other")}
        changes[name]["apart"] = _apart(moved["values"], kind, scene, seed)
        extra = (gain - 1.0) * told[layers].sum(axis=0)
        direct[name] = {
            one: {"told": mean(extra, kind == one), "came": mean(moved["against"], kind == one)} for one in KINDS
        }
    gained = _all(blocks, "all", "shares")
    return {
        "counts": {one: int((kind == one).sum()) for one in (*KINDS, "other", "stop")},
        "plain": {one: mean(plain["values"], kind == one) for one in (*KINDS, "other")},
        "changes": changes,
        "direct": direct,
        "shares": {
            one: {
                name: {
                    "plain": mean(plain["shares"][:, place], kind == one),
                    "change": mean(gained[:, place] - plain["shares"][:, place], kind == one),
                }
                for place, name in enumerate(CLASSES)
            }
            for one in SPOKEN
            if (kind == one).any()
        },
    }


def _all(blocks: Sequence[Mapping[str, Any]], name: str, figure: str) -> Numbers:
    return np.concatenate([np.array(block["under"][name][figure], dtype=np.float64) for block in blocks])


def _apart(moved: Numbers, kind: NDArray[np.str_], scene: NDArray[np.int64], seed: int) -> dict[str, float] | None:
    """Return how much more faithful mentions gain than invented ones, with its interval over scenes."""
    faithful, invented = kind == "faithful", kind == "invented"
    if not faithful.any() or not invented.any():
        return None
    numbers, inverse = np.unique(scene, return_inverse=True)
    picked = np.random.default_rng(seed).integers(len(numbers), size=(RESAMPLES, len(numbers)))
    means = []
    for chosen in (faithful, invented):
        sums = np.bincount(inverse[chosen], weights=moved[chosen], minlength=len(numbers))[picked].sum(axis=1)
        counts = np.bincount(inverse[chosen], minlength=len(numbers))[picked].sum(axis=1)
        means.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    low, high = np.nanquantile(means[0] - means[1], [0.025, 0.975])
    return {
        "estimate": float(moved[faithful].mean() - moved[invented].mean()), "low": float(low), "high": float(high),
    }  # fmt: skip
