"""Where the pictures of a COCO folder lie: beside the annotations, or in a folder that their names may tell."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

FOLDERS = ("", "images", "val2014", "train2014", "val2017", "train2017")
_SHOWN = 4  # places that a message names one by one


def picture_folders(root: Path, annotated: Iterable[Path]) -> list[Path]:
    """Return the folders that may hold the pictures, in the order they are looked through.

    Args:
        root: the folder with everything; where it is called `annotations`, the pictures may also lie beside it.
        annotated: files such as `instances_val2014.json`, whose pictures may lie in `val2014`.
    """
    named = [path.stem.removeprefix("instances").strip("_-.") for path in annotated]
    roots = [root, *([root.parent] if root.absolute().name == "annotations" else [])]
    nested = [str(Path("images", name)) for name in (*FOLDERS[2:], *named)]
    wanted = (base / name for base in roots for name in dict.fromkeys((*FOLDERS, *named, *nested)))
    return [folder for folder in wanted if folder.is_dir()]


def find_pictures(root: Path, folders: Sequence[Path], names: Iterable[tuple[int, str]]) -> dict[int, Path]:
    """Return image id -> file, for the pictures that are there.

    Args:
        root: where a file name that names its folder may start.
        folders: of `picture_folders`.
        names: (image id, file name); of several names of one image the first that is there counts.
    """

    @cache
    def listing(folder: Path) -> frozenset[str]:
        try:
            return frozenset(os.listdir(folder))
        except (OSError, ValueError):
            return frozenset()

    listed = list(names)
    bare = Counter(_path(name).name for name in {name for _, name in listed})
    found: dict[int, Path] = {}
    for image, name in listed:
        if image not in found:
            places = _places(root, folders, _path(name), alone=bare[_path(name).name] == 1)
            there = (place for place in places if place.name in listing(place.parent))
            if (path := next(there, None)) is not None:
                found[image] = path
    return found


def _path(name: str) -> Path:
    return Path(name.replace("\\", "/"))


def _places(root: Path, folders: Sequence[Path], written: Path, *, alone: bool) -> Iterator[Path]:
    """Yield where a file may be: below a folder by its whole name, then by its last part where that is its alone."""
    if not written.name:
        return
    yield root / written
    yield from (folder / written for folder in folders)
    if alone and len(written.parts) > 1:
        yield from (folder / written.name for folder in folders)


def missing_pictures(missing: int, listed: int, example: str, folders: Sequence[Path]) -> str:
    """Return how many pictures are missing, one of them, and where they were looked for."""
    shown = ", ".join(map(str, folders[:_SHOWN])) + (f" and {len(folders) - _SHOWN} more" * (len(folders) > _SHOWN))
    return (
        f"{missing} of {listed} annotated pictures are missing, such as {example}; they were looked for in "
        f"{shown or 'no folder'}"
    )
