"""Folders that are there are whole, and what a killed process began is removed."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from vlm_evals.whole_folder import whole_folder


def _dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead, living, own = (tmp_path / f"data.{pid}.part" for pid in (_dead(), os.getppid(), os.getpid()))
    others = [tmp_path / "data.old.part", tmp_path / "other.1.part", living]
    for one in (dead, own, *others):
        one.mkdir()
        (one / "picture").write_text("")
    with whole_folder(tmp_path / "data") as draft:
        (draft / "picture").write_text("whole")
        assert not (tmp_path / "data").exists()
    assert (tmp_path / "data" / "picture").read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "data", *others])


def test_a_draft_that_is_locked_stays(tmp_path: Path) -> None:
    draft = tmp_path / f"data.{_dead()}.part"
    draft.mkdir()
    held = os.open(draft, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with whole_folder(tmp_path / "data"):
        pass
    os.close(held)
    assert draft.is_dir()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), whole_folder(tmp_path / "data"):
        raise ValueError("no")
    assert not list(tmp_path.iterdir())
