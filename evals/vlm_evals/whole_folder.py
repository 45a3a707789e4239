"""A folder that is there is whole: it is written beside its place, and moved there in one step."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `folder` at the end; first remove what killed processes left of it."""
    remove_drafts(folder)
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    draft.mkdir(parents=True)
    held = os.open(draft, os.O_RDONLY)  # its lock ends with the process, however it ends
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield draft
        os.replace(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    finally:
        os.close(held)


def remove_drafts(folder: Path) -> None:
    """Remove drafts of a folder that no living process writes, on this machine or on another that locks them."""
    for draft in folder.parent.glob(f"{folder.name}.*.part"):
        number = draft.name.removeprefix(f"{folder.name}.").removesuffix(".part")
        if number.isdecimal() and draft.is_dir() and not draft.is_symlink() and not _lives(int(number)):
            held = os.open(draft, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(draft, ignore_errors=True)
            except BlockingIOError:
                continue
            finally:
                os.close(held)


def _lives(process: int) -> bool:
    """Whether a process of this number runs here; our own cannot have begun the draft before."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
