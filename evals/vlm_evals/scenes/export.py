"""Write scenes as files that COCO tools read: PNG pictures, `instances.json`, `captions.json`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from . import text
from .catalog import CATEGORIES, SCENES
from .world import IMAGE_SIZE, SPLITS, Scene, scenes

CAPTIONS_PER_IMAGE = 5  # as COCO has


def scene_name(index: int) -> str:
    """Return the file name of the picture with a zero-based index."""
    return f"{index + 1:06d}.png"


def coco_instances(pictures: list[Scene], info: dict[str, Any]) -> dict[str, Any]:
    """Return COCO's object annotations; image ids count from 1, boxes are x, y, width, height of the visible pixels."""
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(pictures, start=1):
        for instance in scene.instances:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORIES[instance.category].coco_id,
                    "bbox": list(instance.box),
                    "area": instance.area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": category.coco_id, "name": category.name} for category in CATEGORIES]
    return {"info": info, "images": _images(pictures), "annotations": annotations, "categories": categories}


def coco_captions(pictures: list[Scene], info: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return COCO's captions: five per picture, each mentioning every visible category and no other."""
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(pictures, start=1):
        rng = random.Random(f"captions/{seed}/{image_id}")
        for _ in range(CAPTIONS_PER_IMAGE):
            line = text.caption(scene, rng)
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "caption": line})
    return {"info": info, "images": _images(pictures), "annotations": annotations}


def _images(pictures: list[Scene]) -> list[dict[str, Any]]:
    return [
        {
            "id": i + 1,
            "file_name": scene_name(i),
            "width": IMAGE_SIZE,
            "height": IMAGE_SIZE,
            "scene": SCENES[s.kind].name,
        }
        for i, s in enumerate(pictures)
    ]


def export_world(
    out: Path, *, split: str = "held-out", images: int = 500, seed: int = 7,
    progress: Callable[[Iterator[Scene]], Iterator[Scene]] = lambda pictures: pictures,
) -> None:  # fmt: skip
    """Write `images` scenes of a split into `out`: `images/000001.png` …, `instances.json`, `captions.json`.

    The same arguments write the same files, byte for byte.

    Args:
        out: folder to write to; made if it is not there.
        split: a name of `SPLITS`.
        images: how many.
        seed: the world's seed.
        progress: wraps the iterator over scenes, to show how far it is.

    Raises:
        ValueError: if there is no such split, or `images` is not positive.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if images < 1:
        raise ValueError(f"images must be at least 1, not {images}")
    (out / "images").mkdir(parents=True, exist_ok=True)
    pictures = []
    for i, scene in enumerate(progress(scenes(split, seed, images))):
        Image.fromarray(scene.image).save(out / "images" / scene_name(i))
        pictures.append(scene)
    info = {"description": "vlm-heads embedded world", "split": split, "seed": seed, "images": images}
    (out / "instances.json").write_text(json.dumps(coco_instances(pictures, info)))
    (out / "captions.json").write_text(json.dumps(coco_captions(pictures, info, seed)))
