"""Static gains proposed from head scores: which heads get how much, by a rule with two knobs. Ours, not VHR's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from vlm_heads.profile import HeadProfile
from vlm_heads.toolkit import sensitivity
from vlm_heads.toolkit.options import require_number, require_word

GainShape = Literal["top", "graded"]


def propose_gains(
    profile: HeadProfile, strength: float, layers: Collection[int], shape: GainShape = "graded"
) -> HeadProfile:
    """Return the profile with gains made from its scores; heads outside the layers keep gain 1.

    A layer whose heads all have one score, as one without self-attention has, is left alone.

    Args:
        profile: with scores, and surges where heads of "negative vision sensitivity" are to be left out (He et al.
            2025, Eq. 6).
        strength: 1 changes nothing; below 1 the aware heads are damped.
        layers: zero-based.
        shape: "top" gives `strength` to the heads above the layer's median, as VHR with frozen heads does. "graded"
            gives `strength ** rank`; the rank runs evenly from -1 for a layer's least aware head to 1 for its most
            aware. So it takes from some heads and gives to others.

    Raises:
        BadOption: if the strength is not a positive number, or the shape is unknown.
    """
    require_number("strength", strength, at_least=1e-3)
    require_word("shape", shape, get_args(GainShape))
    gains = torch.ones_like(profile.scores)
    for layer in layers:
        aware = profile.scores[layer]
        if profile.surges is not None:
            aware = sensitivity.without_outliers(aware, profile.surges[layer])
        if aware.min() < aware.max():
            gains[layer] = strength ** (_graded(aware) if shape == "graded" else _top(aware))
    return replace(profile, gains=gains)


def _top(aware: Tensor) -> Tensor:
    return sensitivity.above_median(aware).float()


def _graded(aware: Tensor) -> Tensor:
    """Return each head's rank in its layer, from -1 to 1; equal scores share their mean rank."""
    below = (aware[:, None] > aware).sum(dim=1)
    same = (aware[:, None] == aware).sum(dim=1)
    return (2 * below + same - 1) / (len(aware) - 1) - 1
