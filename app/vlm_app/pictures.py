"""Pictures and how they are named: files, and `sample:NAME` for those that ship with the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_app.options import SAMPLE

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Picture:
    """What is asked about.

    Attributes:
        name: `sample:NAME`, or the file name of a visitor's own image.
        image: upright RGB.
        objects: what it shows; None where nobody knows.
        source: where a visitor's own file lies, for two files may have one name; empty for a sample.
    """

    name: str
    image: Image.Image
    objects: frozenset[str] | None = None
    source: str = ""


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


def truth_of(word: str) -> frozenset[str] | None:
    """Return what the picture shows that a word on the command line names; None where nobody knows."""
    if not word.startswith(SAMPLE):
        return None
    from vlm_evals.scenes.samples import truth

    return frozenset(truth()[word.removeprefix(SAMPLE)])


def _path(word: str) -> Path:
    if not word.startswith(SAMPLE):
        return Path(word)
    from vlm_evals.scenes.samples import sample_names, sample_path

    from vlm_heads.errors import BadImage

    name = word.removeprefix(SAMPLE)
    if name not in sample_names():
        raise BadImage(f"no sample scene {name!r}; there are {', '.join(sample_names())}")
    return sample_path(name)
