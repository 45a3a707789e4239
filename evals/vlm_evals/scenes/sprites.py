"""Sprites at the sizes and rotations that scenes use, cut from the sheet once and cached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .draw_sprites import CELL, COLUMNS, glyph_order

SIZES = (14, 17, 20, 23, 26, 30, 34, 39, 44, 50, 56)  # pixels of the longer side
ROTATIONS = (-16, -8, 0, 8, 16)  # degrees


@dataclass(frozen=True)
class Sprite:
    """One glyph at one size and rotation.

    Attributes:
        premultiplied: uint16 [h, w, 3], colour times alpha / 255, 0..255.
        transparency: uint16 [h, w, 3], 255 minus alpha, once per colour: a broadcast over three is slow.
        ink: bool [h, w], where the glyph covers more than half of the pixel.
        pixels: number of ink pixels.
    """

    premultiplied: NDArray[np.uint16]
    transparency: NDArray[np.uint16]
    ink: NDArray[np.bool_]
    pixels: int


@lru_cache(maxsize=1)
def _sheet() -> Image.Image:
    with (files("vlm_evals.scenes") / "sprites.png").open("rb") as file:
        return Image.open(file).convert("RGBA")


@lru_cache(maxsize=1)
def _position() -> dict[str, int]:
    return {glyph: i for i, glyph in enumerate(glyph_order())}


@lru_cache(maxsize=512)
def glyph_image(glyph: str) -> Image.Image:
    """Return the glyph's ink as an RGBA image, uncropped cells trimmed."""
    i = _position()[glyph]
    x, y = i % COLUMNS * CELL, i // COLUMNS * CELL
    cell = _sheet().crop((x, y, x + CELL, y + CELL))
    return cell.crop(cell.getchannel("A").getbbox())


@lru_cache(maxsize=4096)
def _resized(glyph: str, size: int) -> Image.Image:
    image = glyph_image(glyph)
    scale = size / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.BOX,
        reducing_gap=None,
    )


@lru_cache(maxsize=16384)
def sprite(glyph: str, size: int, rotation: int, mirrored: bool) -> Sprite:
    """Return the sprite of a glyph; `size` is an entry of SIZES, `rotation` of ROTATIONS."""
    image = _resized(glyph, size)
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rotation:
        image = image.rotate(rotation, Image.Resampling.BILINEAR, expand=True)
    pixels = np.asarray(image, dtype=np.uint16)
    alpha = np.repeat(pixels[..., 3:], 3, axis=2)
    ink = alpha[..., 0] > 127
    return Sprite(pixels[..., :3] * alpha // 255, 255 - alpha, ink, int(ink.sum()))
