"""What pictures show and where: scenes, folders, and the image positions that an object covers."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from vlm_app.scored_on.examples import captions_of, places_on, questions_of
from vlm_app.scored_on.shown import Shown, absent_object, of_folder, of_world
from vlm_app.view.grid import Grid
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import TaskError
from vlm_evals.scenes.catalog import INDEX
from vlm_evals.scenes.world import scenes

from vlm_heads import VLM
from vlm_heads.models import planted_image


def test_a_position_counts_that_is_half_covered() -> None:
    """Two rows and two columns over 4 x 4 pixels: 4 pixels a position."""
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=bool)
    # covered: 3/4, 1/4, 0, 2/4
    assert places_on(Grid(2, 2), mask) == (0, 3)


def test_a_small_object_lies_on_the_position_it_covers_most() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, 3] = True
    assert places_on(Grid(2, 2), mask) == (1,)
    assert places_on(Grid(2, 2), np.zeros((4, 4), dtype=bool)) == ()


def test_a_processor_that_crops_moves_the_positions() -> None:
    """The model sees the right half alone: its two columns are the picture's third and fourth quarter."""
    mask = np.zeros((4, 4), dtype=bool)
    mask[:, 2] = True
    assert places_on(Grid(1, 2, left=0.5), mask) == (0,)


def test_scenes_show_what_they_own() -> None:
    (one, other), (scene, _) = of_world("validation", 7, 2), scenes("validation", 7, 2)
    assert set(one.objects) != set(other.objects)
    assert {INDEX[name] for name in one.objects} == set(scene.categories)
    for name, mask in one.objects.items():
        assert mask is not None
        assert mask.sum() == (scene.owner == INDEX[name]).sum() > 0


def _folder(tmp_path: Path) -> CocoFolder:
    Image.new("RGB", (6, 4)).save(tmp_path / "1.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "2.png")
    square = {"segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]}
    packed = {"segmentation": {"size": [4, 6], "counts": [20, 4]}, "iscrowd": 1}  # column by column: the last column
    marks = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]},
        {"image_id": 1, "category_id": 1, "bbox": [5, 0, 1, 1]},
        {"image_id": 1, "category_id": 2, **square},
        {"image_id": 1, "category_id": 3, **packed},
    ]
    images = [{"id": at, "file_name": f"{at}.png", "height": 4, "width": 6} for at in (1, 2)]
    categories = [{"id": at, "name": name} for at, name in enumerate(("dog", "car", "cup"), 1)]
    (tmp_path / "instances.json").write_text(
        json.dumps({"images": images, "annotations": marks, "categories": categories})
    )
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": []}))
    return CocoFolder.find(tmp_path)


def test_outlines_boxes_and_packed_masks_are_read(tmp_path: Path) -> None:
    """Both boxes of a dog count. The picture without objects is left out."""
    (one,) = of_folder(_folder(tmp_path), 0, 1)
    masks = {name: np.argwhere(mask).tolist() for name, mask in one.objects.items() if mask is not None}
    assert masks["dog"] == [[0, 5], [1, 1], [1, 2], [2, 1], [2, 2]]
    assert masks["car"] == [[row, column] for row in range(4) for column in range(4)]
    assert masks["cup"] == [[row, 5] for row in range(4)]
    with pytest.raises(TaskError, match="1 pictures"):
        of_folder(_folder(tmp_path), 0, 2)


def test_absent_objects_are_shown_elsewhere() -> None:
    one, other = (Shown(b"", dict.fromkeys(names)) for names in (("dog", "cup"), ("cup", "car")))
    assert absent_object(one, [one, other], Random(0)) == "car"
    assert absent_object(one, [one], Random(0)) is None


@pytest.mark.usefixtures("nltk_data")
def test_own_captions_are_judged_where_they_name_objects() -> None:
    """The planted model says dog, whatever it sees."""
    vlm = VLM.from_pretrained("planted")
    middle = np.zeros((96, 96), dtype=bool)
    middle[24:72, 24:72] = True
    shown = [
        Shown(planted_image("car"), {"car": middle}),
        Shown(planted_image("bird"), {"bird": middle, "dog": middle}),
    ]
    first, second = captions_of(vlm, shown)
    assert [(one.word, one.shown, one.places) for one in first.mentions] == [("dog", False, ())]
    assert [(one.word, one.shown, one.places) for one in second.mentions] == [("dog", True, (5, 6, 9, 10))]
    assert vlm.processor.tokenizer.decode(first.answer) == "there is a dog."


def test_as_many_questions_are_right_with_no_as_with_yes() -> None:
    vlm = VLM.from_pretrained("mini")
    shown = of_world("validation", 7, 3)
    asked = list(questions_of(vlm, shown, seed=1))
    assert [one.truth for one in asked] == [True, False] * 3
    for picture, yes, no in zip(shown, asked[::2], asked[1::2], strict=True):
        assert yes.image is no.image is picture.image
        (present,), (absent,) = yes.mentions, no.mentions
        assert present.word in picture.objects
        assert absent.word not in picture.objects
        assert present.shown
        assert present.places
        assert not absent.shown
        assert absent.word in no.prompt
    assert asked == list(questions_of(vlm, shown, seed=1))
    assert asked != list(questions_of(vlm, shown, seed=2))
