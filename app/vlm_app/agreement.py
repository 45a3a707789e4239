"""How far scores of heads agree: Spearman's rank correlation over all heads, and within layers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Scores = NDArray[np.float64]


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
