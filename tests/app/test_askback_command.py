"""`vlm-heads askback`: saved captions in, captions that `judge chair` reads out."""

import json
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.finders import needs_coco


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "captions.jsonl"
    rows = [{"image_id": number, "caption": "There is a giraffe, a dog and a cup. It is nice."} for number in (1, 2, 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@needs_coco
def test_captions_are_asked_about(command: Command, captions: Path, small_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    told = command("askback", captions, "--images", small_world, "--out", out, "--with", "askback:margin=1", "--json")
    assert told.code == 0, told.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image_id"] for row in rows] == [1, 2, 3]
    left_out = sum(one["fate"] == "left out" for row in rows for one in row["asked"])
    assert (told.value["captions"], told.value["objects"], told.value["left_out"]) == (3, 9, left_out)
    assert left_out > 0
    assert all(("giraffe" in row["caption"]) == (row["asked"][0]["fate"] == "kept") for row in rows)
    assert all(row["before"] == "There is a giraffe, a dog and a cup. It is nice." for row in rows)
    judged = command("judge", "chair", out, "--truth", small_world, "--json")
    assert judged.code == 0, judged.err
    assert "changed" in command("askback", captions, "--images", small_world, "--out", out).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gone.jsonl", "--images", "."], "there is no such file"),
        (["captions.jsonl", "--images", "gone"], "no folder gone"),
        (["captions.jsonl", "--images", "."], "has no picture of that name"),
        (["captions.jsonl", "--images", ".", "--with", "askbak"], "did you mean 'askback'"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, command: Command, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(captions.parent)
    told = command("askback", *words)
    assert told.code == 2
    assert said in told.err
    assert told.err.count("\n") == 1
