"""What the losses of places come to, by layer, with intervals over scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_app.studies.findings.mentions import auc
from vlm_app.studies.heads.asked import KINDS

RESAMPLES = 1000

Numbers = NDArray[np.float64]


def summary(blocks: Sequence[Mapping[str, Any]], depth: int, seed: int) -> dict[str, Any]:
    """Return the means by layer and kind of place.

    Args:
        blocks: of scenes: `places` (kind, scene), `lost` `[L][n]`, `changed` `[L][m]` of the places "other".
        depth: layers.
        seed: of the resamples of scenes.

    Returns:
        counts: places by kind.
        starts: for each layer from which the image is hidden: by kind, the mean of what is lost, in nats, with its
            95 % interval; `auc`, the chance that a faithful mention loses more than an invented one, with its interval,
            None where there is only one of the two; `changed`, the share of other words that the contrast would change.
    """
    places = [place for block in blocks for place in block["places"]]
    kind = np.array([place["kind"] for place in places])
    scene = np.array([place["scene"] for place in places])
    lost = np.concatenate([np.array(block["lost"]) for block in blocks], axis=1)
    changed = np.concatenate([np.array(block["changed"]) for block in blocks], axis=1)
    drawn = list(_draws(scene, seed))
    starts = []
    for start in range(depth):
        row: dict[str, Any] = {"start": start, "changed": float(changed[start].mean())}
        for name in (*KINDS, "other"):
            row[name] = mean_over_scenes(lost[start], kind == name, scene, seed)
        row["auc"] = _auc(lost[start], kind, drawn)
        starts.append(row)
    return {"counts": {name: int((kind == name).sum()) for name in (*KINDS, "other")}, "starts": starts}


def _draws(scene: NDArray[np.int64], seed: int) -> Sequence[NDArray[np.int64]]:
    """Return indices of places, whole scenes drawn with replacement."""
    members = [np.flatnonzero(scene == number) for number in np.unique(scene)]
    rng = np.random.default_rng(seed)
    return [
        np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]) for _ in range(RESAMPLES)
    ]


def mean_over_scenes(
    lost: Numbers, chosen: NDArray[np.bool_], scene: NDArray[np.int64], seed: int
) -> dict[str, float] | None:
    """Return the mean over some places and its interval over scenes; None without any."""
    if not chosen.any():
        return None
    numbers, inverse = np.unique(scene, return_inverse=True)
    sums = np.bincount(inverse[chosen], weights=lost[chosen], minlength=len(numbers))
    counts = np.bincount(inverse[chosen], minlength=len(numbers))
    picked = np.random.default_rng(seed).integers(len(numbers), size=(RESAMPLES, len(numbers)))
    totals = counts[picked].sum(axis=1)
    means = sums[picked].sum(axis=1)[totals > 0] / totals[totals > 0]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"estimate": float(lost[chosen].mean()), "low": float(low), "high": float(high)}


def _auc(lost: Numbers, kind: NDArray[np.str_], drawn: Sequence[NDArray[np.int64]]) -> dict[str, float] | None:
    mention = (kind == "faithful") | (kind == "invented")
    invented = kind == "invented"
    if len(set(invented[mention].tolist())) < 2:
        return None
    values = []
    for chosen in drawn:
        some = chosen[mention[chosen]]
        if 0 < invented[some].sum() < len(some):
            values.append(auc(invented[some], lost[some]))
    low, high = np.quantile(values, [0.025, 0.975])
    return {"estimate": auc(invented[mention], lost[mention]), "low": float(low), "high": float(high)}
