"""Pictures and how they are named: files, and `sample:NAME` for those that ship with the package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_app.options import SAMPLE

if TYPE_CHECKING:
    from PIL import Image


Box = tuple[float, float, float, float]  # left, top, width, height, as shares of the picture's sides

_BETWEEN = re.compile(r"[,;\n]|\band\b")


@dataclass(frozen=True)
class Picture:
    """What is asked about.

    Attributes:
        name: `sample:NAME`, or the file name of a visitor's own image.
        image: upright RGB.
        objects: what it shows; None where nobody knows.
        source: where a visitor's own file lies, for two files may have one name; empty for a sample.
        boxes: where its objects lie; empty where nobody knows.
    """

    name: str
    image: Image.Image
    objects: frozenset[str] | None = None
    source: str = ""
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)


def told_objects(text: str) -> frozenset[str] | None:
    """Return the objects that a visitor says a picture shows; None where nothing is said.

    Args:
        text: words between commas, as `dog, two chairs`.

    Raises:
        BadOption: if a word names none of the objects that answers are judged by.
    """
    from vlm_evals.text.objects import ObjectFinder

    from vlm_heads.errors import BadOption

    pieces = [piece.strip() for piece in _BETWEEN.split(text) if piece.strip()]
    finder = ObjectFinder()
    found = {piece: {one.node for one in finder.find(piece).mentions} for piece in pieces}
    unknown = [piece for piece, nodes in found.items() if not nodes]
    if unknown:
        raise BadOption(
            f"{unknown[0][:40]!r} is none of the 80 objects of COCO by which answers are judged here: leave it out, or "
            "name it as an answer would, as 'dog' or 'cell phone'"
        )
    return frozenset[str]().union(*found.values()) if pieces else None


def find_pictures(words: Sequence[str]) -> list[Path]:
    """Return the files that words on the command line name, each found to be an image that can be read.

    Raises:
        BadImage: for the first that is not; among many, it is said before any model is loaded.
    """
    from vlm_heads.models import load_image

    paths = [_path(word) for word in words]
    for path in paths:
        load_image(path)
    return paths


def truth_of(word: str) -> tuple[str, ...] | None:
    """Return what the picture shows that a word on the command line names, in order; None where nobody knows."""
    if not word.startswith(SAMPLE):
        return None
    from vlm_evals.scenes.samples import truth

    return tuple(truth()[word.removeprefix(SAMPLE)])


def _path(word: str) -> Path:
    if not word.startswith(SAMPLE):
        return Path(word)
    from vlm_evals.scenes.samples import sample_names, sample_path

    from vlm_heads.errors import BadImage

    name = word.removeprefix(SAMPLE)
    if name not in sample_names():
        raise BadImage(f"no sample scene {name!r}; there are {', '.join(sample_names())}")
    return sample_path(name)
