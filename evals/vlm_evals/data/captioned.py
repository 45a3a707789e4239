"""The pictures that saved captions are about, found in a folder by their ids."""

from collections.abc import Sequence
from pathlib import Path

from vlm_evals.data.formats import Caption
from vlm_evals.errors import EvaluationError
from vlm_evals.records import image_key

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def pictures_of(captions: Sequence[Caption], folder: Path) -> list[Path]:
    """Return the picture of each caption: a file in the folder, or below it, whose name is the caption's image id.

    An id is known with COCO's prefix and zeros and without, as `73` and `COCO_val2014_000000000073.jpg`.

    Raises:
        EvaluationError: if there is no such folder, or a caption's picture is not in it, or two files may be meant.
    """
    if not folder.is_dir():
        raise EvaluationError(f"no folder {folder}: give the one with the captions' pictures")
    there: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            for key in {image_key(path.name), path.stem}:
                there.setdefault(key, []).append(path)
    return [_picture(one, there, folder) for one in captions]


def _picture(caption: Caption, there: dict[str, list[Path]], folder: Path) -> Path:
    found = there.get(image_key(caption.image_id), [])
    if len(found) == 1:
        return found[0]
    where = f"line {caption.line} is about the image {caption.image_id!r}"
    if not found:
        raise EvaluationError(f"{where}, and {folder} has no picture of that name")
    raise EvaluationError(
        f"{where}, and {folder} has {len(found)} pictures of that name, as {found[0].relative_to(folder)} and "
        f"{found[1].relative_to(folder)}: give the folder with the right ones alone"
    )
