"""A temporary folder that outlives nobody: what a killed process left behind is removed at the next start."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PREFIX = "vlm-heads-page-"
_HELD = "held"  # a file that a living process keeps locked; the lock ends with the process, however it ends


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new temporary folder and remove it afterwards; first remove those of processes that were killed."""
    remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        with (folder / "taking").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.rename(file.name, folder / _HELD)  # seen under this name only once it is locked
            yield folder


def remove_leftovers() -> None:
    """Remove this user's folders that no living process holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.lstat().st_uid != os.getuid():
            continue
        try:
            with (folder / _HELD).open() as file:
                if _left(file):
                    shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:  # it is being made, or another start removes it
            continue


def _left(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
