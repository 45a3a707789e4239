"""The vision-aware half of each layer, as VHR takes it, and as many of the least aware heads."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from vlm_heads import Anatomy, HeadReinforcement

HALVES = ("upper", "lower")

Bools = NDArray[np.bool_]


def halves_by_vhd(vhd: NDArray[np.float64]) -> dict[str, Bools]:
    """Return bool `[L, Hq, ...]`: "upper", the heads above their layer's lower median; "lower", as many least aware.

    Args:
        vhd: `[L, Hq, ...]`.
    """
    middle = np.sort(vhd, axis=1)[:, [(vhd.shape[1] - 1) // 2]]
    upper = vhd > middle
    place = vhd.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return {"upper": upper, "lower": place < upper.sum(axis=1, keepdims=True)}


def chosen_by_vhd(vhd: NDArray[np.float64], layers: Collection[int]) -> dict[str, Bools]:
    """Return the same on some layers alone.

    Args:
        vhd: `[L, Hq, ...]`.
        layers: where heads are chosen.
    """
    there = np.isin(np.arange(len(vhd)), list(layers)).reshape(-1, *[1] * (vhd.ndim - 1))
    return {half: chosen & there for half, chosen in halves_by_vhd(vhd).items()}


def vhr_layers(anatomy: Anatomy) -> list[int]:
    """Return the layers with heads on which VHR acts by its paper."""
    return [layer for layer in HeadReinforcement().paper_layers(anatomy) if layer in anatomy.attentions]
