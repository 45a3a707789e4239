"""A run: what is kept, going on after an interruption, and the command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from vlm_app.studies.heads.blocks import Block
from vlm_app.studies.heads.measure import measure_heads

from tests.support.command import Command, Mistake


class Interrupted(Exception):
    """Somebody stopped the run."""


def _after(layers: int) -> Callable[[int], None]:
    """Return what stops a run after some layers."""
    heard: list[int] = []

    def advance(scenes: int) -> None:
        heard.append(scenes)
        if len(heard) == layers:
            raise Interrupted

    return advance


def _kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_that_goes_on_ends_like_one_that_was_not_stopped(planted: Block, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(planted.folder / "captions.json", other)
    with pytest.raises(Interrupted):
        Block(planted.vlm, other, planted.pictures, 0, 7).measure(_after(2))
    assert len(list(other.glob("layer-*.json"))) == 2
    Block(planted.vlm, other, planted.pictures, 0, 7).measure()
    planted.measure()
    assert _kept(other) == _kept(planted.folder)


def test_a_finished_block_runs_no_model(planted: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.measure()
    found = planted.found()
    heard: list[int] = []
    again = Block(planted.vlm, planted.folder, planted.pictures, 0, 7)
    monkeypatch.setattr(planted.vlm, "inputs", None)
    again.measure(heard.append)
    assert heard == [len(planted.pictures)] * 4
    assert again.found() == found


def test_a_run_is_printed_kept_and_put_on_a_page(command: Command, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "effect.md"
    words = ("study", "heads", "--images", 2, "--out", tmp_path / "run", "--write", page, "--json")
    found = command(*words).value
    assert found == json.loads((tmp_path / "run" / "heads.json").read_text())
    assert found == json.loads((tmp_path / "docs" / "heads" / "mini.json").read_text())
    assert found["counts"]["present"] == found["counts"]["absent"] == 2
    maps = found["maps"]
    assert [len(maps["vhd"]), len(maps["vhd"][0])] == [found["about"]["layers"], found["about"]["heads"]]
    assert "### What the heads of `mini` do" in page.read_text("utf-8")
    assert str(tmp_path) not in page.read_text("utf-8") + json.dumps(found)
    # what is kept is enough to say it again
    assert command(*words).value == found


def test_with_more_scenes_the_first_blocks_are_kept(tmp_path: Path) -> None:
    few = measure_heads(tmp_path, model="planted", images=8, seed=7, device="cpu")
    first = tmp_path / "scenes-0000-0008"
    kept = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    more = measure_heads(tmp_path, model="planted", images=9, seed=7, device="cpu")
    assert kept == {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert {path.name for path in tmp_path.glob("scenes-*")} == {"scenes-0000-0008", "scenes-0008-0009"}
    assert more["counts"]["invented"] > few["counts"]["invented"] > 0
    assert more["about"]["scenes"] == 9


def test_another_run_is_not_mixed_in(mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"model": "mini", "weights": "0", "seed": 7, "split": "validation"}))
    said = mistake("study", "heads", "--model", "mini", "--images", 2, "--out", tmp_path)
    assert "holds a run of weights 0, not " in said
    assert "give another folder with --out" in said
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
