"""Images of different folders are kept apart, or the doubt is refused; two captions of one image are said."""

import json
from pathlib import Path

import pytest
from vlm_evals.data.image_names import told_apart
from vlm_evals.data.truth import load_truth
from vlm_evals.errors import FileFormatError, UnknownImage
from vlm_evals.judge import judge
from vlm_evals.records import write_rows


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        ([42, "42", "val2014/COCO_val2014_000000000042.jpg"], ["42", "42", "42"]),
        (["a/1.jpg", "b/1.jpg", "2.jpg"], ["a/1.jpg", "b/1.jpg", "2"]),
        (["x/a/1.jpg", "./a/1.jpg", "1.jpg"], ["1", "1", "1"]),  # one folder, told in full or in part
        (["a\\1.jpg", "b\\1.jpg"], ["a/1.jpg", "b/1.jpg"]),
    ],
)
def test_names_and_keys(names: list, keys: list[str]) -> None:
    assert list(told_apart(names).values()) == keys


def judged(tmp_path: Path, truth: dict[str, list[str]], *captions: tuple[int | str, str]) -> dict:
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    write_rows(tmp_path / "said.jsonl", [{"image_id": name, "caption": text} for name, text in captions])
    return judge("chair", tmp_path / "said.jsonl", truth=tmp_path / "truth.json")


def test_a_truth_with_folders_keeps_them_apart(tmp_path: Path) -> None:
    truth = {"a/1.jpg": ["dog"], "b/1.jpg": ["cat"]}
    found = judged(tmp_path, truth, ("a/1.jpg", "A dog."), ("data/b/1.jpg", "A dog."))
    assert (found["chair_s"], found["images"], found["truth_images"]) == (1 / 2, 2, 2)
    with pytest.raises(UnknownImage, match=r"line 1: image '1\.jpg' may be a/1\.jpg or b/1\.jpg .* with the folder"):
        judged(tmp_path, truth, ("1.jpg", "A dog."))
    with pytest.raises(UnknownImage, match=r"image 'c/1\.jpg' is not in the ground truth"):
        judged(tmp_path, truth, ("c/1.jpg", "A dog."))


def test_captions_that_the_truth_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    complaint = r"said\.jsonl, line 2: b/1\.jpg and a/1\.jpg \(line 1\) are both image 1 of the ground truth"
    with pytest.raises(FileFormatError, match=complaint):
        judged(tmp_path, {"1": ["dog"]}, ("a/1.jpg", "A dog."), ("b/1.jpg", "A cat."))


def test_one_image_twice_in_a_truth_is_refused_where_it_says_two_things(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text('{"42": ["dog"], "000000000042.jpg": ["dog"]}')
    assert load_truth(path).of(42) == {"dog"}
    path.write_text('{"42": ["dog"], "000000000042.jpg": ["cat"]}')
    with pytest.raises(FileFormatError, match=r"image '000000000042\.jpg' stands there twice, with different objects"):
        load_truth(path)


def test_several_captions_of_an_image_are_said(tmp_path: Path) -> None:
    found = judged(
        tmp_path, {"42": ["dog"], "7": []}, (42, "A dog."), (7, "A cat."), ("COCO_val2014_000000000042.jpg", "")
    )
    assert "1 images have several captions, such as 42 (lines 1, 3), and each caption counts" in found["notes"]
    assert found["counts"]["captions"] == 3
    assert not any("several" in note for note in judged(tmp_path, {"42": ["dog"]}, (42, "A dog."))["notes"])


def test_questions_about_images_of_one_name_in_two_folders_are_of_two_images(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "image": f"{'ab'[n]}/1.jpg", "text": "Is there a dog in the image?", "label": "yes"}
        for n in range(2)
    ]
    write_rows(tmp_path / "coco_pope_random.json", rows)
    write_rows(tmp_path / "said.jsonl", [{"question_id": n, "answer": "Yes"} for n in range(2)])
    found = judge("pope", [tmp_path / "said.jsonl"], questions=[tmp_path / "coco_pope_random.json"])
    assert found["files"]["questions"][0]["images"] == 2
