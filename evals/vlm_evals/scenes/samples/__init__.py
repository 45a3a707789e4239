"""A few scenes that ship with the package, so that every printed command has a picture to run on.

Six are the first held-out scenes of their kind under seed 11. Two are pictures that the planted models read: a red
square, which is a car to them, without and with black corners that drain attention. `python -m
vlm_evals.scenes.samples` draws them again.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

SEED = 11
KINDS = ("kitchen", "office", "street", "park", "beach", "farm")


def sample_names() -> list[str]:
    """Return the names of the samples."""
    return sorted(truth())


def sample_path(name: str) -> Path:
    """Return the PNG of a sample scene.

    Raises:
        KeyError: if there is no such sample.
    """
    if name not in truth():
        raise KeyError(f"no sample scene {name!r}; there are {', '.join(sample_names())}")
    return Path(str(files(__name__) / f"{name}.png"))


def truth() -> dict[str, list[str]]:
    """Return the COCO categories that each sample shows, largest first."""
    found: dict[str, list[str]] = json.loads((files(__name__) / "truth.json").read_text())
    return found


def boxes() -> dict[str, dict[str, list[list[int]]]]:
    """Return where the objects of each sample lie: by sample and category, (left, top, width, height) in pixels."""
    found: dict[str, dict[str, list[list[int]]]] = json.loads((files(__name__) / "boxes.json").read_text())
    return found
