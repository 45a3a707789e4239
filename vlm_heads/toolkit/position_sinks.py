"""Image positions that draw attention whatever they show: sinks which no activation betrays, named by their place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from vlm_kernels import KeyClass

from vlm_heads.errors import BadOption
from vlm_heads.toolkit.number_list import NumberListForm

PositionSinks = str | Sequence[int]

SINK_POSITIONS = NumberListForm("none", "positions", "0+48")


def places_in_image(classes: Tensor) -> Tensor:
    """Return int64 `[B, T]`: the place of every image key in its image, from 0; -1 for other keys.

    An image is an unbroken run of image keys. So each of several images, or of the tiles that a model separates, is
    counted anew.

    Args:
        classes: int8 `[B, T]` of a prompt; see `KeyClass`.
    """
    image = (classes == KeyClass.IMAGE) | (classes == KeyClass.IMAGE_SINK)
    columns = torch.arange(1, classes.shape[1] + 1, device=classes.device)
    before = torch.where(image, 0, columns).cummax(dim=1).values  # columns up to the last key that is no image
    return torch.where(image, columns - 1 - before, -1)


def at_positions(classes: Tensor, positions: PositionSinks) -> Tensor:
    """Return bool `[B, T]`: the image keys at these places of their images.

    Args:
        classes: int8 `[B, T]` of a prompt.
        positions: places from 0, or "none".

    Raises:
        BadOption: if a row has images, and none of them reaches a position.
    """
    places = places_in_image(classes)
    named = () if isinstance(positions, str) else tuple(positions)
    longest = places.amax(dim=1)
    shortest = int(torch.where(longest < 0, classes.shape[1], longest).min())
    outside = [one for one in named if one > shortest]
    if outside:
        raise BadOption(
            f"position {outside[0]} is not in an image of {shortest + 1} positions: give positions from 0 to {shortest}"
        )
    return torch.isin(places, torch.tensor(named, dtype=torch.int64, device=places.device))
