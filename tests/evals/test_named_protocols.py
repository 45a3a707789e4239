"""The protocols that name pictures: whose they are, what they ask, and what is said where pictures are missing."""

import json
from pathlib import Path

import pytest
from vlm_evals import tasks
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import FileFormatError, TaskError
from vlm_evals.experiment import choose_protocol, find_data
from vlm_evals.records import image_key, write_json
from vlm_evals.tasks import Published, bind, narrowed, published, samples

from tests.evals.test_tasks import folder

__all__ = ["folder"]  # pictures 1 to 6, of which picture i shows min(i, 4) objects

IDS = {"opera-500": (5, 3), "pope-500": (6, 3, 5)}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocols of two pictures in place of five hundred."""
    entries = {"opera-500": {"max_new_tokens": 99, "prompt": "Say what is there."}, "pope-500": {}}
    monkeypatch.setattr(
        tasks, "published", lambda name: Published(IDS[name], entries[name]) if name in IDS else None
    )  # fmt: skip


def test_opera_500_is_the_list_of_the_published_captions(shared_data: Path) -> None:
    file = shared_data / "chair" / "captions" / "llava-1.5__greedy.jsonl"
    found = published("opera-500")
    assert found is not None
    assert list(found.image_ids) == [json.loads(line)["image_id"] for line in file.read_text("utf-8").splitlines()]
    assert found.entries["prompt"] == "Please describe this image in detail."
    assert found.entries["pipeline"] == "chair-opera"


def test_pope_500_is_the_list_of_the_published_questions(shared_data: Path) -> None:
    found = published("pope-500")
    assert found is not None
    for edition in ("original", "vcd"):
        for split in ("random", "popular", "adversarial"):
            file = shared_data / "pope" / "questions" / edition / f"coco_pope_{split}.jsonl"
            rows = map(json.loads, file.read_text("utf-8").splitlines())
            assert list(found.image_ids) == list(dict.fromkeys(int(image_key(row["image"])) for row in rows))


def test_a_list_that_was_changed_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stated = json.loads((tasks.files("vlm_evals") / "protocols" / "opera-500.json").read_text())
    stated["image_ids"][0] += 1
    write_json(tmp_path / "protocols" / "opera-500.json", stated)
    monkeypatch.setattr(tasks, "files", lambda package: tmp_path)
    published.cache_clear()
    with pytest.raises(FileFormatError, match="do not give its hash"):
        published("opera-500")
    published.cache_clear()


@pytest.mark.usefixtures("few")
def test_the_named_pictures_are_asked_in_their_order(folder: Path) -> None:
    data = CocoFolder.find(folder)
    protocol = bind("opera-500", "chair", data, limit=None, seed=7)
    assert protocol.image_ids == (5, 3)
    assert (protocol.max_new_tokens, protocol.prompt) == (99, "Say what is there.")
    assert [sample.sample_id for sample in samples(protocol, data)] == ["5", "3"]
    assert bind("opera-500", "chair", data, limit=None, seed=7, max_new_tokens=64).max_new_tokens == 64


@pytest.mark.usefixtures("few")
def test_questions_are_made_about_the_named_pictures_alone(folder: Path, tmp_path: Path) -> None:
    data = CocoFolder.find(folder)
    protocol = bind("pope-500", "pope", data, limit=None, seed=7)
    assert set(protocol.image_ids) == {3, 5, 6}
    asked = samples(protocol, data)
    assert {sample.image_id for sample in asked} == {"3", "5", "6"}
    assert len(asked) == 3 * 6 * 3
    # the same from a file that somebody shared, whose folder has other pictures too
    write_json(tmp_path / "shared.json", protocol.as_json())
    from vlm_evals.answer import Processes

    name = str(tmp_path / "shared.json")
    again = find_data(name, "pope", folder, tmp_path, limit=None, seed=0, processes=Processes())
    assert samples(choose_protocol(name, "pope", again, limit=None, seed=0), again) == asked


@pytest.mark.usefixtures("few")
def test_missing_pictures_are_counted(folder: Path) -> None:
    (folder / "images" / "3.png").unlink()
    data = CocoFolder.find(folder)
    with pytest.raises(TaskError, match=r"asks about 2 pictures, and 1 are not in .*, the first has the id 3"):
        narrowed("opera-500", data)
    with pytest.raises(TaskError, match="1 are not in"):
        bind("opera-500", "chair", data, limit=None, seed=7)


@pytest.mark.usefixtures("few")
def test_another_metric_and_a_limit_are_refused(folder: Path) -> None:
    data = CocoFolder.find(folder)
    with pytest.raises(TaskError, match="use `vlm-heads eval chair`"):
        bind("opera-500", "pope", data, limit=None, seed=7)
    with pytest.raises(TaskError, match="leave out --limit"):
        bind("opera-500", "chair", data, limit=1, seed=7)
