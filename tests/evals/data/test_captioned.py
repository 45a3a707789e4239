"""Pictures of saved captions, by id and by name."""

from pathlib import Path

import pytest
from vlm_evals.data.captioned import pictures_of
from vlm_evals.data.formats import Caption
from vlm_evals.errors import EvaluationError


def _folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_a_picture_is_found_by_its_id(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "val/COCO_val2014_000000000073.jpg", "street.png", "notes.txt")
    captions = [Caption(73, "a"), Caption("COCO_val2014_000000000073.jpg", "b"), Caption("street.png", "c")]
    assert [path.name for path in pictures_of(captions, folder)] == [
        "COCO_val2014_000000000073.jpg", "COCO_val2014_000000000073.jpg", "street.png"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "said"), [(4, "has no picture of that name"), ("one.jpg", "2 pictures of that name, as a/one.jpg and b")]
)
def test_what_is_missing_or_not_one_is_named(image: int | str, said: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a/one.jpg", "b/one.jpg")
    with pytest.raises(EvaluationError, match=f"line 3 is about the image .*{said}"):
        pictures_of([Caption(image, "x", 3)], folder)
    with pytest.raises(EvaluationError, match="no folder"):
        pictures_of([], folder / "gone")
