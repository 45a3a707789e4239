"""Where on the picture each image position lies, or why that cannot be said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlm_heads import VLM, UnsupportedModel, examine

_STRAIGHT = 0.02  # of the picture's side: how far a ramp may bend on its way through the processor


@dataclass(frozen=True)
class Grid:
    """Image positions in reading order over a part of the picture.

    Attributes:
        rows, columns: of positions.
        left, top, right, bottom: of the part that the model was given, as shares of the upright picture's sides; a
            processor that crops leaves a part out.
    """

    rows: int
    columns: int
    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def box(self, position: int) -> tuple[float, float, float, float]:
        """Return (left, top, width, height) of a position, as shares of the picture's sides."""
        row, column = divmod(position, self.columns)
        width, height = (self.right - self.left) / self.columns, (self.bottom - self.top) / self.rows
        return self.left + column * width, self.top + row * height, width, height


def find_grid(vlm: VLM, image: Image.Image, inputs: Mapping[str, Any]) -> Grid:
    """Return where the image positions of a prompt lie.

    Args:
        vlm: the model.
        image: upright, as it was given to the processor.
        inputs: that the processor made of it.

    Raises:
        UnsupportedModel: if it cannot be said, with the reason.
    """
    anatomy = examine(vlm.model)
    positions = int((inputs["input_ids"] == anatomy.image_token_id).sum())
    if anatomy.quirks.positions == "stated":
        return _stated(anatomy.model_type, vlm.model.config, inputs, positions)
    if anatomy.quirks.positions is None:
        raise UnsupportedModel(
            f"how the {positions} image positions of {anatomy.model_type} lie over the picture is not known here, so "
            "nothing is drawn on it"
        )
    pixels = _single_picture(anatomy.model_type, inputs)
    rows, columns = _patches(vlm.model.config.vision_config, pixels)
    merged = math.isqrt(rows * columns // positions) if positions and rows * columns % positions == 0 else 0
    if merged == 0 or merged**2 * positions != rows * columns or rows % merged or columns % merged:
        raise UnsupportedModel(
            f"{positions} image positions do not tile {rows} × {columns} patches of {anatomy.model_type}, so nothing "
            "is drawn on the picture"
        )
    return Grid(rows // merged, columns // merged, *_part_given(vlm, image, pixels))


def _stated(model_type: str, config: Any, inputs: Mapping[str, Any], positions: int) -> Grid:
    sizes: Tensor = inputs["image_grid_thw"]
    merge = int(getattr(config.vision_config, "spatial_merge_size", 1))
    frames, height, width = (int(size) for size in sizes[0].tolist())
    if len(sizes) != 1 or frames != 1 or (height // merge) * (width // merge) != positions:
        raise UnsupportedModel(f"{model_type} was given more than one picture, so nothing is drawn on it")
    return Grid(height // merge, width // merge)


def _single_picture(model_type: str, inputs: Mapping[str, Any]) -> Tensor:
    pixels: Tensor = inputs["pixel_values"]
    tiles = math.prod(pixels.shape[:-3])
    if pixels.dim() < 4 or tiles != 1:
        raise UnsupportedModel(
            f"{model_type} cut the picture into {tiles} tiles; where its positions lie cannot be drawn on one picture"
        )
    return pixels.reshape(pixels.shape[-3:])


def _patches(vision: Any, pixels: Tensor) -> tuple[int, int]:
    size = vision.patch_size
    down, across = (size, size) if isinstance(size, int) else size
    return pixels.shape[-2] // int(down), pixels.shape[-1] // int(across)


def _part_given(vlm: VLM, image: Image.Image, pixels: Tensor) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of the part of the picture that the processor kept.

    Two ramps of the picture's size go through the processor: what comes out tells where each pixel came from.
    """
    width, height = image.size
    across = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    down = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    black, white = (_processed(vlm, np.full((height, width), level), pixels) for level in (0.0, 1.0))
    if float(np.abs(white - black).min()) < 1e-3:
        raise UnsupportedModel("the processor frames the picture, so where its patches lie cannot be drawn")
    left, right = _line(((_processed(vlm, across, pixels) - black) / (white - black)).mean(axis=0))
    top, bottom = _line(((_processed(vlm, down, pixels) - black) / (white - black)).mean(axis=1))
    return left, top, right, bottom


def _processed(vlm: VLM, levels: NDArray[np.float64], pixels: Tensor) -> NDArray[np.float64]:
    grey = Image.fromarray((levels * 255).round().astype(np.uint8)).convert("RGB")
    given = vlm.inputs([grey], "where?")["pixel_values"]
    found: NDArray[np.float64] = given.reshape(pixels.shape).double().mean(dim=0).cpu().numpy()
    return found


def _line(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return where a straight line through values at pixel centres begins and ends, in 0..1."""
    centres = (np.arange(len(values)) + 0.5) / len(values)
    slope, start = np.polyfit(centres, values, 1)
    if float(np.abs(start + slope * centres - values).max()) > _STRAIGHT:
        raise UnsupportedModel("the processor bends or pads the picture, so where its patches lie cannot be drawn")
    ends = np.clip([start, start + slope], 0.0, 1.0)
    return float(ends[0]), float(ends[1])
