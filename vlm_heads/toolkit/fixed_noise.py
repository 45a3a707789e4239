"""Numbers that look random and are told by their place alone: the same in every batch, on every device and step."""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF  # of 32 bits


def fixed_noise(seed: int, *places: Tensor) -> Tensor:
    """Return float32 numbers from 0 to 1, one for each place.

    Args:
        seed: draws all of them.
        places: integers that broadcast to the shape of the result; equal ones give equal numbers.
    """
    mixed = _mixed(torch.tensor(seed, device=places[0].device))
    for place in places:
        mixed = _mixed(mixed + place)
    return (mixed >> 8).float() / 2**24  # what float32 holds


def _mixed(value: Tensor) -> Tensor:
    """Return 32 bits of which each depends on each given one (the multipliers are those of lowbias32)."""
    value = value & _LOW
    value = value ^ (value >> 16)
    value = (value * 0x7FEB352D) & _LOW
    value = value ^ (value >> 15)
    value = (value * 0x846CA68B) & _LOW
    return value ^ (value >> 16)
