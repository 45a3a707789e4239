"""Temporary folders: removed at the end, or at the next start where there was no end."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from vlm_app.leftovers import PREFIX, remove_leftovers, temporary_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _killed(folder: Path) -> None:
    """Leave a folder with an upload behind, as a killed process does."""
    program = (
        "import os, tempfile\nfrom vlm_app.leftovers import temporary_folder\n"
        f"tempfile.tempdir = {str(folder)!r}\n"
        "with temporary_folder() as made:\n    (made / 'upload.png').write_text('mine')\n    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9


def test_a_folder_ends_with_its_process(temporary: Path) -> None:
    with temporary_folder() as folder:
        assert folder.parent == temporary
        remove_leftovers()
        assert folder.is_dir()  # held by a living process, even by this one
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_at_the_next_start(temporary: Path) -> None:
    _killed(temporary)
    (left,) = temporary.iterdir()
    assert (left / "upload.png").is_file()
    with temporary_folder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_nothing_else_is_removed(temporary: Path) -> None:
    elsewhere = temporary / "elsewhere"
    _killed(temporary)
    next(temporary.glob(f"{PREFIX}*")).rename(elsewhere)
    (temporary / f"{PREFIX}link").symlink_to(elsewhere)
    (temporary / f"{PREFIX}being-made").mkdir()
    (temporary / f"{PREFIX}file").touch()
    before = set(temporary.rglob("*"))
    remove_leftovers()
    assert set(temporary.rglob("*")) == before
