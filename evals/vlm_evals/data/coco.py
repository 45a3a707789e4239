"""A folder in COCO's format: which pictures it has, and which objects they show, in the order of annotation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_evals.data.pictures import find_pictures, missing_pictures, picture_folders
from vlm_evals.errors import FileFormatError, TaskError
from vlm_evals.records import file_hash, image_key, read_json

WORLD = {"split", "images", "seed"}  # says which export of the embedded world a folder is


def annotation_files(root: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the `instances*.json` and the `captions*.json` of a folder and of its `annotations`.

    A folder of pictures without either, such as `val2014`, has them in the `annotations` beside it.
    """
    places = [root, root / "annotations"]
    if not any(next(place.glob("*.json"), None) for place in places):
        places = [root.absolute().parent / "annotations"]
    instances = tuple(sorted(path for place in places for path in place.glob("instances*.json")))
    return instances, tuple(sorted(path for place in places for path in place.glob("captions*.json")))


@dataclass(frozen=True)
class CocoFolder:
    """Pictures and annotations in COCO's format, the embedded world's export among them.

    Attributes:
        root: the folder.
        instances: files with boxes.
        captions: files with human captions.
        chosen: ids of the images that count; None for all.
    """

    root: Path
    instances: tuple[Path, ...]
    captions: tuple[Path, ...]
    chosen: frozenset[int] | None = None

    @classmethod
    def find(cls, root: Path) -> CocoFolder:
        """Look for `instances*.json` and `captions*.json` in a folder or its `annotations`.

        Raises:
            TaskError: if there are none.
        """
        if not root.is_dir():
            raise TaskError(f"no folder {root}: give --data a folder in COCO's format")
        instances, captions = annotation_files(root)
        if not instances or not captions:
            missing = "captions*.json" if instances else "instances*.json"
            raise TaskError(
                f"{root}: no {missing} there or in {root / 'annotations'}; COCO's annotation files are needed"
            )
        return cls(root, instances, captions)

    def only(self, images: Iterable[int]) -> CocoFolder:
        """Return the same folder with some of its images alone."""
        return replace(self, chosen=frozenset(images))

    def hashes(self) -> dict[str, str]:
        """Return file name -> SHA-256."""
        return {path.name: file_hash(path) for path in (*self.instances, *self.captions)}

    @cached_property
    def images(self) -> dict[int, Path]:
        """Image id -> file, for the annotated images that are there."""
        found = find_pictures(self.root, self._folders, self._listed)
        order = dict.fromkeys(image for image, _ in self._listed)
        return {image: found[image] for image in order if image in found and self._counts(image)}

    @property
    def shortfall(self) -> str | None:
        """How many annotated pictures are missing and where they were looked for; None where all are there."""
        listed = {image: name for image, name in reversed(self._listed) if self._counts(image)}
        missing = [image for image in listed if image not in self.images]
        if not missing:
            return None
        return missing_pictures(len(missing), len(listed), listed[min(missing)], self._folders)

    def _counts(self, image: int) -> bool:
        return self.chosen is None or image in self.chosen

    @cached_property
    def _folders(self) -> list[Path]:
        return picture_folders(self.root, self.instances)

    @cached_property
    def _listed(self) -> list[tuple[int, str]]:
        """(image id, file name) of every annotated image, in the order of the files.

        Raises:
            FileFormatError: if an id stands for two pictures, as where two files of annotations count from 1.
        """
        known: dict[int, tuple[str, Path]] = {}
        listed = [
            (*pair, path) for path, one in zip(self.instances, self._annotated, strict=True) for pair in one.files
        ]
        for image, name, path in listed:
            other, where = known.setdefault(image, (name, path))
            if other != name and image_key(other) != image_key(name):
                reason = f"image {image} is {name} here and {other} in {where.name}; keep one of the files"
                raise FileFormatError(path, None, reason)
        return [(image, name) for image, name, _ in listed]

    @cached_property
    def objects(self) -> dict[int, list[str]]:
        """Image id -> names of its annotated categories, each once, in the order of annotation."""
        found: dict[int, dict[str, None]] = {image: {} for image in self.images}
        for image, name in (pair for one in self._annotated for pair in one.objects):
            if image in found:
                found[image][name] = None
        return {image: list(names) for image, names in found.items()}

    @cached_property
    def world(self) -> dict[str, Any] | None:
        """`split`, `images` and `seed` where this is an export of the embedded world, else None."""
        info = self._annotated[0].info
        return {name: info[name] for name in WORLD} if info.keys() >= WORLD else None

    @cached_property
    def _annotated(self) -> list[_Annotated]:
        return [_read_instances(path) for path in self.instances]


@dataclass(frozen=True)
class _Annotated:
    """What one instances file says: (image id, file name), (image id, category name) per annotation, its own info."""

    files: list[tuple[int, str]]
    objects: list[tuple[int, str]]
    info: dict[str, Any]


def _read_instances(path: Path) -> _Annotated:
    contents = read_json(path)
    if isinstance(contents, dict) and contents.get("annotations") and not contents.get("categories"):
        raise FileFormatError(
            path, None, "is not a COCO annotation file of objects: it has no `categories`, which name them"
        )
    try:
        files = [(int(image["id"]), str(image["file_name"])) for image in contents["images"]]
        names = {category["id"]: str(category["name"]) for category in contents["categories"]}
        marks = [(int(one["image_id"]), one["category_id"]) for one in contents["annotations"]]
        if nameless := next((mark for mark in marks if mark[1] not in names), None):
            raise FileFormatError(path, None, f"category {nameless[1]!r} of image {nameless[0]} is not in `categories`")
        objects = [(image, names[category]) for image, category in marks]
        info = dict(contents.get("info") or {})
    except FileFormatError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise FileFormatError(path, None, f"is not in COCO's format for objects ({error!r})") from error
    return _Annotated(files, objects, info)
