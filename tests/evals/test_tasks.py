"""Protocols: named, hashed, bound to data, and asking the same things every time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import EvaluationError, FileFormatError, TaskError
from vlm_evals.experiment import notes_on
from vlm_evals.protocol import read_protocol
from vlm_evals.records import write_json
from vlm_evals.runs import keep_notes, kept_notes
from vlm_evals.tasks import TEMPLATES, bind, samples
from vlm_evals.yes_no.questions import questions

NAMES = ["dog", "cat", "cup", "chair", "car", "apple", "bed", "boat"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures; picture i (from 1) shows min(i, 4) of eight objects, starting with the i-th name."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    shown = {image: [(image + k) % 8 for k in range(min(image, 4))] for image in range(1, 7)}
    for image in shown:
        Image.new("RGB", (8, 8), (image, 0, 0)).save(root / "images" / f"{image}.png")
    listed = [{"id": image, "file_name": f"{image}.png"} for image in shown]
    marks = [{"image_id": image, "category_id": one, "id": 1} for image, ones in shown.items() for one in ones]
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    write_json(root / "instances.json", {"images": listed, "annotations": marks, "categories": categories})
    said = [{"image_id": image, "id": 1, "caption": "A picture."} for image in shown]
    write_json(root / "captions.json", {"images": listed, "annotations": said})
    return root


def test_captions_are_asked_of_every_image(folder: Path) -> None:
    data = CocoFolder.find(folder)
    asked = samples(bind("coco", "chair", data, limit=None, seed=7), data)
    assert [sample.sample_id for sample in asked] == ["1", "2", "3", "4", "5", "6"]
    assert {sample.prompt for sample in asked} == {"Please describe this image in detail."}
    assert all(Path(sample.image).is_file() for sample in asked)


def test_a_limit_draws_with_the_seed(folder: Path) -> None:
    data = CocoFolder.find(folder)
    drawn = [bind("coco", "chair", data, limit=3, seed=seed).image_ids for seed in range(12)]
    assert drawn == [bind("coco", "chair", data, limit=3, seed=seed).image_ids for seed in range(12)]
    assert len(set(drawn)) > 3
    assert all(len(ids) == 3 and list(ids) == sorted(ids) for ids in drawn)


def test_pope_asks_every_strategy_of_images_with_three_objects(folder: Path) -> None:
    data = CocoFolder.find(folder)
    protocol = bind("coco", "pope", data, limit=None, seed=7)
    assert protocol.image_ids == (3, 4, 5, 6)
    asked = samples(protocol, data)
    assert len(asked) == 4 * 6 * 3  # images, questions an image, strategies
    assert len({sample.sample_id for sample in asked}) == len(asked)
    first = asked[0]
    assert (first.sample_id, first.image_id, first.label, first.split) == ("random/1", "3", "yes", "random")
    assert first.prompt == "Is there a chair in the image?"  # the first object of picture 3
    assert [question.label for question in questions(protocol, data)][:4] == ["yes", "no", "yes", "no"]


def test_pope_asks_about_the_drawn_images(folder: Path) -> None:
    data = CocoFolder.find(folder)
    protocol = bind("coco", "pope", data, limit=1, seed=7)
    assert len(protocol.image_ids) == 1
    asked = samples(protocol, data)
    assert {int(sample.image_id) for sample in asked} == set(protocol.image_ids)
    assert len(asked) == 18


def test_a_protocol_comes_back_from_its_file(folder: Path) -> None:
    data = CocoFolder.find(folder)
    protocol = bind("coco", "pope", data, limit=2, seed=3, parser="opera")
    path = folder / "protocol.json"
    write_json(path, protocol.as_json())
    assert read_protocol(path) == protocol
    write_json(path, {"protocol": protocol.as_json(), "setting": {}})
    assert read_protocol(path).hash == protocol.hash


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"prompt": "What is there?"}, {"max_new_tokens": 5}, {"image_ids": (1,)}, {"pipeline": "x"}]
)
def test_every_entry_counts_in_the_hash(folder: Path, change: dict[str, object]) -> None:
    protocol = bind("coco", "chair", CocoFolder.find(folder), limit=2, seed=3)
    assert replace(protocol, **change).hash != protocol.hash


def test_a_changed_protocol_file_is_refused(folder: Path) -> None:
    protocol = bind("coco", "chair", CocoFolder.find(folder), limit=2, seed=3)
    write_json(folder / "p.json", protocol.as_json() | {"seed": 4})
    with pytest.raises(FileFormatError, match="was changed"):
        read_protocol(folder / "p.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x", "colour": 1}', "{", "\x00"])
def test_what_is_no_protocol_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(FileFormatError, match=r"p\.json"):
        read_protocol(tmp_path / "p.json")


def test_other_data_than_the_protocol_was_made_with_is_refused(folder: Path) -> None:
    data = CocoFolder.find(folder)
    protocol = bind("coco", "chair", data, limit=None, seed=7)
    contents = json.loads(data.captions[0].read_text())
    contents["annotations"][0]["caption"] = "A dog."
    write_json(data.captions[0], contents)
    with pytest.raises(TaskError, match=r"captions\.json is not the file"):
        samples(protocol, CocoFolder.find(folder))


def test_a_picture_that_has_gone_is_named(folder: Path) -> None:
    protocol = bind("coco", "chair", CocoFolder.find(folder), limit=None, seed=7)
    (folder / "images" / "4.png").unlink()
    with pytest.raises(TaskError, match="1 images of the protocol are missing, the first has the id 4"):
        samples(protocol, CocoFolder.find(folder))


@pytest.mark.parametrize(("limit", "metric"), [(0, "chair"), (7, "chair"), (5, "pope"), (-1, "pope")])
def test_a_limit_out_of_range_is_refused(folder: Path, limit: int, metric: str) -> None:
    with pytest.raises(TaskError, match="set --limit to 1"):
        bind("coco", metric, CocoFolder.find(folder), limit=limit, seed=7)


def test_an_unknown_protocol_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(TaskError, match=", ".join(TEMPLATES)):
        bind("wrold", "chair", CocoFolder.find(folder), limit=None, seed=7)


def test_a_world_protocol_says_which_export_it_is(small_world: Path, folder: Path) -> None:
    protocol = bind("world-held-out", "chair", CocoFolder.find(small_world), limit=None, seed=7)
    assert protocol.world == {"split": "held-out", "images": 12, "seed": 3}
    for name, data in (("world-shifted", small_world), ("world-held-out", folder)):
        with pytest.raises(TaskError, match="is no export of the split"):
            bind(name, "chair", CocoFolder.find(data), limit=None, seed=7)


@pytest.mark.parametrize("missing", ["instances.json", "captions.json"])
def test_a_folder_without_annotations_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(TaskError, match=missing.replace(".json", "")):
        CocoFolder.find(folder)
    with pytest.raises(TaskError, match="no folder"):
        CocoFolder.find(folder / "nowhere")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    contents=st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["images", "annotations", "categories", "id", "file_name"]), inner)
        ),
    )
)
def test_a_file_that_annotates_nothing_is_refused(folder: Path, contents: object) -> None:
    write_json(folder / "instances.json", contents)
    with pytest.raises(EvaluationError, match=r"instances\.json|none of the annotated images"):
        bind("coco", "chair", CocoFolder.find(folder), limit=None, seed=7)


def moved(folder: Path, name_of: Callable[[int], str], place_of: Callable[[str], str]) -> CocoFolder:
    """Give the pictures other names in the annotations and lay them elsewhere."""
    contents = json.loads((folder / "instances.json").read_text())
    for image in contents["images"]:
        old, image["file_name"] = image["file_name"], name_of(image["id"])
        new = folder / place_of(image["file_name"])
        new.parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / old).rename(new)
    (folder / "annotations").mkdir()
    write_json(folder / "annotations" / "instances_val2017.json", contents)
    (folder / "instances.json").unlink()
    return CocoFolder.find(folder)


LAYOUTS = {
    "2017, pictures beside the annotations": (lambda i: f"{i:012d}.png", lambda name: f"val2017/{name}"),
    "names with their folder": (lambda i: f"val2014/COCO_val2014_{i:012d}.png", lambda name: name),
    "some names with their folder": (
        lambda i: f"{'val2014/' * (i % 2)}COCO_val2014_{i:012d}.png",
        lambda name: name if "/" in name else f"val2014/{name}",
    ),
    "names with a folder that is not there": (lambda i: f"far/away/{i}.png", lambda name: f"images/{Path(name).name}"),
    "a folder below images": (lambda i: f"{i}.png", lambda name: f"images/val2017/{name}"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_are_found_where_people_have_them(folder: Path, layout: str) -> None:
    data = moved(folder, *LAYOUTS[layout])
    assert data.shortfall is None
    assert list(data.images) == [1, 2, 3, 4, 5, 6]
    for image, path in data.images.items():
        with Image.open(path) as picture:
            assert picture.getpixel((0, 0))[0] == image


def test_annotations_may_be_given_with_the_pictures_beside_them(folder: Path) -> None:
    moved(folder, *LAYOUTS["2017, pictures beside the annotations"])
    (folder / "captions.json").rename(folder / "annotations" / "captions_val2017.json")
    assert len(CocoFolder.find(folder / "annotations").images) == 6


def test_the_pictures_may_be_given_with_the_annotations_beside_them(folder: Path) -> None:
    moved(folder, *LAYOUTS["2017, pictures beside the annotations"])
    (folder / "captions.json").rename(folder / "annotations" / "captions_val2017.json")
    assert len(CocoFolder.find(folder / "val2017").images) == 6


def test_missing_pictures_are_counted_and_where_they_were_looked_for_is_said(folder: Path) -> None:
    for image in (2, 5):
        (folder / "images" / f"{image}.png").unlink()
    data = CocoFolder.find(folder)
    assert data.shortfall == (
        f"2 of 6 annotated pictures are missing, such as 2.png; they were looked for in {folder}, {folder / 'images'}"
    )
    assert data.only([1, 2]).shortfall.startswith("1 of 2 annotated pictures are missing")
    assert data.only([1, 3]).shortfall is None
    with pytest.raises(TaskError, match=r"has 4 images to ask about, not 6: .*; 2 of 6 annotated pictures are missing"):
        bind("coco", "chair", data, limit=6, seed=7)


def test_one_picture_does_not_stand_for_two_of_its_name(folder: Path) -> None:
    contents = json.loads((folder / "instances.json").read_text())
    for image, name in zip(contents["images"][:2], ("a/1.png", "b/1.png"), strict=True):
        image["file_name"] = name
    write_json(folder / "instances.json", contents)
    assert list(CocoFolder.find(folder).images) == [3, 4, 5, 6]  # there is but one 1.png, and it could be either
    (folder / "images" / "b").mkdir()
    (folder / "images" / "2.png").rename(folder / "images" / "b" / "1.png")
    assert list(CocoFolder.find(folder).images) == [2, 3, 4, 5, 6]


def test_no_picture_at_all_says_where_was_looked(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(TaskError, match=r"none of the annotated images is there .*; 6 of 6 .* looked for in .*images"):
        bind("coco", "chair", CocoFolder.find(folder), limit=None, seed=7)


def test_one_id_for_two_pictures_is_refused(folder: Path) -> None:
    contents = json.loads((folder / "instances.json").read_text())
    contents["images"][0]["file_name"] = "other.png"
    write_json(folder / "instances_more.json", contents)
    with pytest.raises(FileFormatError, match=r"image 1 is other\.png here and 1\.png in instances\.json; keep one"):
        bind("coco", "chair", CocoFolder.find(folder), limit=None, seed=7)


def test_the_report_says_which_pictures_are_missing(folder: Path, tmp_path: Path) -> None:
    (folder / "images" / "2.png").unlink()
    data = CocoFolder.find(folder)
    (note,) = notes_on("coco", data)
    assert note.startswith("1 of 6 annotated pictures are missing, such as 2.png")
    assert notes_on("some/protocol.json", data) == []  # it names its images, and what is missing of them is refused
    keep_notes(tmp_path, [note])
    assert kept_notes(tmp_path) == [note]
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(FileFormatError, match=r"notes\.json: is no list of sentences"):
        kept_notes(tmp_path)
