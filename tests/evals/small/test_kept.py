"""Folders in the cache: whole, or not there."""

import os
import subprocess
import sys

import pytest
from vlm_evals.scenes.small.kept import STAMP, kept_folder

from vlm_heads.errors import UnsupportedModel

FROM = {"file": "abc"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vlm-heads"


class Maker:
    """Fills a folder with one file and counts how often it was asked to."""

    def __init__(self, content=b"weights"):
        self.content, self.times = content, 0

    def __call__(self, folder):
        self.times += 1
        (folder / "model").write_bytes(self.content)


def test_a_folder_is_made_once(cache):
    make = Maker()
    for _ in range(2):
        assert kept_folder("thing", FROM, make) == cache / "thing"
    assert make.times == 1
    assert (cache / "thing" / "model").read_bytes() == b"weights"


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "model").write_bytes(b"WEIGHTS"),
        lambda folder: (folder / "model").write_bytes(b"weight"),
        lambda folder: (folder / "model").unlink(),
        lambda folder: (folder / "extra").write_bytes(b""),
        lambda folder: (folder / STAMP).write_text("{"),
        lambda folder: (folder / STAMP).unlink(),
    ],
    ids=["changed", "cut", "lost", "more", "stamp broken", "stamp lost"],
)
def test_a_broken_folder_is_made_again(harm):
    make = Maker()
    folder = kept_folder("thing", FROM, make)
    harm(folder)
    kept_folder("thing", FROM, make)
    assert make.times == 2
    assert sorted(path.name for path in folder.iterdir()) == ["model", STAMP]
    assert (folder / "model").read_bytes() == b"weights"


def test_a_folder_made_from_something_else_is_made_again():
    kept_folder("thing", {"file": "old"}, Maker(b"old"))
    assert (kept_folder("thing", FROM, Maker(b"new")) / "model").read_bytes() == b"new"


def test_what_fails_half_way_leaves_nothing(cache):
    def fail(folder):
        (folder / "model").write_bytes(b"half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        kept_folder("thing", FROM, fail)
    assert [path.name for path in cache.iterdir()] == [".thing.lock"]


def test_what_a_killed_process_left_is_swept_away(cache):
    (cache / ".part-thing").mkdir(parents=True)
    (cache / ".part-thing" / "rubbish").write_bytes(b"half")
    folder = kept_folder("thing", FROM, Maker())
    assert sorted(path.name for path in folder.iterdir()) == ["model", STAMP]
    assert not (cache / ".part-thing").exists()


def test_a_cache_that_cannot_be_written_is_said_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UnsupportedModel, match="set XDG_CACHE_HOME"):
        kept_folder("thing", FROM, Maker())


def test_any_process_of_a_distributed_start_writes_the_model(tmp_path):
    program = tmp_path / "second.py"
    program.write_text(
        "import sys, pathlib, torch\nfrom tests.support.small_base import tiny_base\n"
        "from vlm_evals.scenes.small.kept import save_from_here\n"
        "torch.distributed.init_process_group('gloo')\n"
        "if torch.distributed.get_rank() == 1:\n"
        "    save_from_here(tiny_base().model, pathlib.Path(sys.argv[1]))\n"
        "torch.distributed.barrier()\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    paths = os.pathsep.join([os.getcwd(), *filter(None, sys.path)])
    subprocess.run([*launcher, str(tmp_path / "out")], check=True, env={**os.environ, "PYTHONPATH": paths}, timeout=120)
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "out").iterdir()}
