"""Which heads look at the image: how VHD is spread, how stable it is, and whether other scores say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.world import Scene

from vlm_app.agreement import Scores
from vlm_app.studies.findings.captions import picture_of
from vlm_heads import VLM, score_heads
from vlm_heads.scorers import parse_scorer


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


def other_scores(vlm: VLM, pictures: Sequence[Scene], vhd: Scores) -> dict[str, Scores]:
    """Return three scores of every head `[L, Hq]`, all at the prompt's last position, as means over scenes.

    `vhd`: how far the output moves without the image. `image_mass`: the attention weight on the image. `image_route`:
    the norm of what the image contributes to the output.
    """
    images = [picture_of(scene) for scene in pictures]
    found = {"vhd": vhd}
    for name in ("image-mass", "image-route"):
        profile = parse_scorer(name).score(vlm.model, vlm.processor, images, prompt=DESCRIBE)
        found[name.replace("-", "_")] = profile.scores.double().numpy()
    return found
