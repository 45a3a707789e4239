"""`vlm-heads askback`: saved captions in, captions that `judge chair` reads out."""

import json
from pathlib import Path

import pytest
from PIL import Image
from vlm_app.models import parse_mitigations, single_words

from tests.support.command import Command
from tests.support.finders import needs_coco
from vlm_heads import Mitigation


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
        (["captions.jsonl", "--images", ".", "--with", "vhr askbak"], "did you mean 'askback'"),
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


@pytest.mark.parametrize("word", ["dola", "deco", "flb", "only", "opera", "carve", "vcd", "vhr dola"])
def test_what_would_be_ignored_is_refused_before_a_model_is_loaded(word: str, tmp_path: Path, command: Command) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image_id": "0", "caption": "A dog."}\n')
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    told = command("askback", tmp_path / "captions.jsonl", "--images", tmp_path, "--with", word)
    assert told.code == 2
    assert f"leave {word.split()[-1]} out" in told.err
    assert "loading" not in told.err


@needs_coco
def test_a_folder_that_holds_the_check_is_read(tmp_path: Path, command: Command) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image_id": "0", "caption": "A dog."}\n')
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    Mitigation.parse("vhr askback:margin=100.0").save_pretrained(tmp_path / "kept")
    out = tmp_path / "out.jsonl"
    told = command("askback", tmp_path / "captions.jsonl", "--images", tmp_path, "--with", tmp_path / "kept", "-o", out)
    assert told.code == 0
    assert json.loads(out.read_text())["caption"] == ""


def test_one_word_may_name_several_methods() -> None:
    assert single_words(["branch askback:by=both", "vhr"]) == ["branch", "askback:by=both", "vhr"]
    asked = "askback:question=Is there {object} here?"
    assert single_words([f"{asked} vhr:gain=2"]) == [asked, "vhr:gain=2"]
    assert parse_mitigations(["branch askback:by=both"]).word() == "branch askback:by=both"
