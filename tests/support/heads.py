"""A model and what it is asked about heads; and fabricated measurements, in which what each head does is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vlm_app.studies.heads.asked import Beginning, Rows

from vlm_heads import VLM, examine

DEPTH, HEADS = 3, 5
_KINDS = ("faithful", "invented", "present", "absent")


@dataclass(frozen=True)
class Case:
    """A model, what it is asked, and tokens that stand for objects' words."""

    vlm: VLM
    begun: Beginning
    rows: Rows
    objects: list[int]

    def one_head(self, layer: int, head: int, gain: float) -> dict[int, Tensor]:
        """Return gains of 1 but for one head."""
        gains = torch.ones(len(self.rows.ids), examine(self.vlm.model).heads)
        gains[:, head] = gain
        return {layer: gains}


def fabricated(
    scenes: int, *, sign: float = 1.0, invents: bool = True, only: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return what a block of scenes holds, drawn scene by scene; head h of every layer has VHD 1 + h and a little.

    Switched off, head h takes about h / 10 from faithful mentions times `sign`, and doubled adds as much. Elsewhere
    heads do next to nothing.

    Args:
        scenes: of all blocks.
        sign: -1 for heads that see the less, the higher their VHD.
        invents: whether captions invent.
        only: numbers of the scenes of this block; all by default.
    """
    here = range(scenes) if only is None else only
    kinds = [kind for kind in _KINDS if invents or kind != "invented"]
    drawn = {scene: np.random.default_rng(scene) for scene in here}
    places = [
        {"kind": kind, "scene": number, "node": "dog", "value": -0.5} for number in range(len(here)) for kind in kinds
    ]
    sees = np.array([0.1 * sign * (place["kind"] == "faithful") for place in places])
    own = sees * np.arange(HEADS)[:, None]  # [Hq, n]

    def noise(size: float, each: int) -> Any:
        return np.concatenate([one.normal(0, size, (DEPTH, HEADS, each)) for one in drawn.values()], axis=-1)

    def halves(added: Any) -> dict[str, list[float]]:
        return {half: (scale * added).tolist() for half, scale in (("upper", 3.5), ("lower", 0.5))}

    many = len(kinds)
    looks = 1.0 + np.arange(HEADS)[:, None]
    return {
        "scenes": len(here),
        "places": places,
        "vhd": (looks + noise(0.1, 1)).tolist(),
        "image_mass": np.abs(noise(0.2, 1)).tolist(),
        "image": (own + noise(0.05, many)).tolist(),
        "text": noise(0.05, many).tolist(),
        "ablation": (-own + noise(0.01, many)).tolist(),
        "doubling": (own + noise(0.01, many)).tolist(),
        "together": {"ablation": halves(-sees), "doubling": halves(sees)},
    }
