"""Hiding a part of a picture, so that the model can be asked again without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, ImageStat

from vlm_app.pictures import Box, Picture

_GONE = 0.7  # of an object's box: with so much of it hidden the object is not to be seen any more


def hide(picture: Picture, box: Sequence[float]) -> Picture:
    """Return a picture with one part in its mean colour; objects that lie mostly inside are not in it any more.

    Args:
        picture: upright.
        box: left, top, width and height of the part, as shares of the picture's sides.
    """
    left = {name: tuple(one for one in boxes if covered(one, box) < _GONE) for name, boxes in picture.boxes.items()}
    gone = {name for name, boxes in left.items() if picture.boxes[name] and not boxes}
    objects = None if picture.objects is None else picture.objects - gone
    kept = {name: boxes for name, boxes in left.items() if name not in gone}
    return replace(picture, image=hidden(picture.image, box), objects=objects, boxes=kept)


def hidden(image: Image.Image, box: Sequence[float]) -> Image.Image:
    """Return an image with a part, as `hide` takes it, in the image's mean colour."""
    width, height = image.size
    left, top, wide, tall = box
    corners = (round(left * width), round(top * height), round((left + wide) * width), round((top + tall) * height))
    covered_one = image.convert("RGB")
    mean = tuple(round(one) for one in ImageStat.Stat(covered_one).mean)
    covered_one.paste(mean, corners)
    return covered_one


def covered(one: Box, by: Sequence[float]) -> float:
    """Return which share of a box another box covers."""
    wide = min(one[0] + one[2], by[0] + by[2]) - max(one[0], by[0])
    tall = min(one[1] + one[3], by[1] + by[3]) - max(one[1], by[1])
    return max(0.0, wide) * max(0.0, tall) / max(one[2] * one[3], 1e-9)
