"""Pictures with the objects that they show, and where: scenes of the embedded world, or a folder in COCO's format."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import TaskError
from vlm_evals.records import read_json
from vlm_evals.scenes.catalog import CATEGORIES
from vlm_evals.scenes.world import scenes

from vlm_heads.models import ImageSource

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Shown:
    """A picture and what it shows.

    Attributes:
        image: the picture.
        objects: name -> bool `[height, width]`, the pixels that the object covers; None where nobody knows.
    """

    image: ImageSource
    objects: Mapping[str, Mask | None]


def of_world(split: str, seed: int, count: int) -> list[Shown]:
    """Return scenes of the embedded world."""
    return [
        Shown(
            Image.fromarray(scene.image),
            {CATEGORIES[category].name: scene.owner == category for category in scene.categories},
        )
        for scene in scenes(split, seed, count)
    ]


def of_folder(data: CocoFolder, seed: int, count: int) -> list[Shown]:
    """Return pictures of a folder that show something, drawn by the seed.

    Raises:
        TaskError: if there are fewer than asked for.
    """
    showing = [image for image in sorted(data.images) if data.objects[image]]
    if len(showing) < count:
        raise TaskError(f"{data.root} has {len(showing)} pictures with annotated objects; ask for at most so many")
    drawn = showing if count == len(showing) else random.Random(seed).sample(showing, count)
    masks = _masks(data, set(drawn))
    return [
        Shown(data.images[image], {name: masks.get((image, name)) for name in data.objects[image]}) for image in drawn
    ]


def _masks(data: CocoFolder, images: set[int]) -> dict[tuple[int, str], Mask]:
    """Return the pixels of every object in some images: of its outlines, or of its boxes where it has none."""
    found: dict[tuple[int, str], Mask] = {}
    for contents in (read_json(path) for path in data.instances):
        names = {one["id"]: str(one["name"]) for one in contents["categories"]}
        sizes = {one["id"]: (int(one["height"]), int(one["width"])) for one in contents["images"] if "height" in one}
        for mark in contents["annotations"]:
            key = (int(mark["image_id"]), names[mark["category_id"]])
            if key[0] in images and key[0] in sizes and (mask := _mask(mark, sizes[key[0]])) is not None:
                found[key] = found[key] | mask if key in found else mask
    return found


def _mask(mark: Mapping[str, Any], size: tuple[int, int]) -> Mask | None:
    """Return the pixels of one annotation, bool `[height, width]`; None where it says nothing that is understood."""
    outline = mark.get("segmentation")
    if isinstance(outline, list) and outline:
        drawing = Image.new("1", size[::-1])
        for corners in outline:
            ImageDraw.Draw(drawing).polygon([float(one) for one in corners], fill=1, outline=1)
        return np.asarray(drawing)
    if isinstance(outline, dict) and isinstance(outline.get("counts"), list):
        runs = np.arange(len(outline["counts"])) % 2 == 1  # off and on by turns, down one column after the other
        whole: Mask = np.repeat(runs, outline["counts"]).reshape(size, order="F")
        return whole
    if "bbox" not in mark:
        return None
    left, top, width, height = (float(one) for one in mark["bbox"])
    box = np.zeros(size, dtype=bool)
    box[int(top) : int(np.ceil(top + height)), int(left) : int(np.ceil(left + width))] = True
    return box


def absent_object(shown: Shown, all_shown: Sequence[Shown], rng: random.Random) -> str | None:
    """Return an object of another picture that this one does not show; None where there is none."""
    others = sorted({name for one in all_shown for name in one.objects} - set(shown.objects))
    return rng.choice(others) if others else None


def pictures_of(shown: Iterable[Shown]) -> list[ImageSource]:
    """Return the pictures alone."""
    return [one.image for one in shown]
