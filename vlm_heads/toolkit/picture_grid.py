"""How the image positions of a prompt lie over its picture: in how many rows and columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy


def grids_of(anatomy: Anatomy, config: Any, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return rows and columns of image positions for each row of a batch that has one picture a row.

    Args:
        anatomy: of the model.
        config: of the model.
        inputs: of a forward.

    Raises:
        UnsupportedModel: if a family's positions are not known to lie in rows and columns, or a row has other pictures.
    """
    counts: list[int] = (inputs["input_ids"] == anatomy.image_token_id).sum(dim=1).tolist()
    if anatomy.quirks.positions == "stated":
        merge = int(getattr(config.vision_config, "spatial_merge_size", 1))
        sizes: list[list[int]] = inputs["image_grid_thw"].tolist()
        found = [(height // merge, width // merge) for frames, height, width in sizes if frames == 1]
    else:
        found = [_patches(anatomy, config, inputs, count) for count in counts]
    if len(found) != len(counts) or any(one[0] * one[1] != count for one, count in zip(found, counts, strict=True)):
        raise UnsupportedModel(
            f"the image positions of {anatomy.model_type} here do not lie in rows and columns over one picture a prompt"
        )
    return found


def require_grid(anatomy: Anatomy) -> None:
    """Raise `UnsupportedModel` where it is not known how a family's image positions lie over a picture."""
    if anatomy.quirks.positions is None:
        raise UnsupportedModel(
            f"how the image positions of {anatomy.model_type} lie over the picture is not known here, so no part of it "
            "can be found by them"
        )


def _patches(anatomy: Anatomy, config: Any, inputs: Mapping[str, Any], count: int) -> tuple[int, int]:
    """Return rows and columns where positions are the vision tower's patches, or squares of them."""
    pixels: Tensor = inputs["pixel_values"]
    size = config.vision_config.patch_size
    down, across = (size, size) if isinstance(size, int) else size
    rows, columns = pixels.shape[-2] // int(down), pixels.shape[-1] // int(across)
    merged = math.isqrt(rows * columns // count) if count else 0
    whole = merged > 0 and rows % merged == 0 and columns % merged == 0
    return (rows // merged, columns // merged) if whole else (0, 0)
