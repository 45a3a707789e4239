"""Which heads look at the image: how VHD is spread, how stable it is, and whether other scores say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from vlm_evals.scenes.world import Scene

from vlm_app.studies.findings.captions import picture_of
from vlm_app.studies.findings.looking import Looks
from vlm_heads import VLM, score_heads

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Awareness:
    """VHD of every head, `[L, Hq]` each.

    Attributes:
        whole: over all scenes.
        halves: over the first half of them, and over the rest.
    """

    whole: Scores
    halves: tuple[Scores, Scores]


def awareness(vlm: VLM, pictures: Sequence[Scene]) -> Awareness:
    """Return VHD over scenes, of which there are two at least, and over either half."""
    parts = (pictures[: len(pictures) // 2], pictures[len(pictures) // 2 :])
    profiles = [score_heads(vlm.model, vlm.processor, [picture_of(scene) for scene in part]) for part in parts]
    first, second = (profile.scores.double().numpy() for profile in profiles)
    whole = (len(parts[0]) * first + len(parts[1]) * second) / len(pictures)
    return Awareness(whole, (first, second))


def head_spread(scores: Scores) -> list[dict[str, Any]]:
    """Return, per layer, the largest VHD, the median, their ratio, and the layer's share of all VHD.

    The median is the lower one, as in `VHR`. The ratio is None in a layer without any.
    """
    middle = np.sort(scores, axis=1)[:, (scores.shape[1] - 1) // 2]
    largest, share = scores.max(axis=1), scores.sum(axis=1) / scores.sum()
    return [
        {
            "layer": layer,
            "max": float(largest[layer]),
            "median": float(middle[layer]),
            "max_over_median": float(largest[layer] / middle[layer]) if middle[layer] > 0 else None,
            "share": float(share[layer]),
        }
        for layer in range(len(scores))
    ]


def scorers(vhd: Scores, looks: Looks) -> dict[str, Scores]:
    """Return three scores of every head `[L, Hq]`, all at the prompt's last position, as means over scenes.

    `vhd`: how far the output moves without the image. `image_mass`: the attention weight on the image. `image_route`:
    the norm of what the image contributes to the output.
    """
    found = {"vhd": vhd, "image_mass": np.zeros_like(vhd), "image_route": np.zeros_like(vhd)}
    for layer, seen in looks.layers.items():
        found["image_mass"][layer] = seen.of("mass").mean(axis=0)
        found["image_route"][layer] = seen.of("route").mean(axis=0)
    return found


def agreements(scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """Return the rank correlations of every pair of scores."""
    return [{"pair": [one, other]} | agreement(scores[one], scores[other]) for one, other in combinations(scores, 2)]


def agreement(one: Scores, other: Scores) -> dict[str, float | None]:
    """Return Spearman's correlation of two scores `[L, Hq]`: over all heads, and the mean of those within a layer.

    A method that chooses heads in each layer depends on the second alone.
    """
    inside = [spearman(left, right) for left, right in zip(one, other, strict=True)]
    defined = [value for value in inside if value is not None]
    return {
        "all": spearman(one.ravel(), other.ravel()),
        "within_layers": float(np.mean(defined)) if defined else None,
    }


def spearman(one: Scores, other: Scores) -> float | None:
    """Return the correlation of ranks, ties at their mean rank; None where either is the same everywhere."""
    ranks = np.stack([rankdata(one), rankdata(other)])
    if (ranks.std(axis=1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])
