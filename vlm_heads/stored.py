"""What is saved and shared: files written in one step, and folders of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader sees the old file or the new one, never half of it.

    A link stays a link, and what it points to is written. Devices and pipes are written straight to.

    Raises:
        OSError: if it cannot be written; a file that was there is then as before.
    """
    if _is_special(path):
        with open(path, "wb") as stream:
            stream.write(content)
        return
    target = Path(os.path.realpath(path))
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    # a short name fits wherever the file's does
    descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(draft, mode)
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise


def _is_special(path: Path) -> bool:
    """Whether a path is no regular file, or a name of an open one, as /dev/stdout and /dev/fd/3 are."""
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    first, second = (*path.absolute().parts[1:3], "", "")[:2]
    return not stat.S_ISREG(kind) or (first in ("dev", "proc") and second != "shm")


def pushed(
    repo_id: str, write: Callable[[Path], None], message: str, *, private: bool | None, api: HfApi | None
) -> str:
    """Write a folder into a repository of the hub, made where missing; return its address.

    Args:
        repo_id: `owner/name`.
        write: fills the folder.
        message: of the commit.
        private: of a repository that is made here.
        api: with an endpoint or token of its own; None for the one that `huggingface_hub` is set up with.
    """
    hub = api or HfApi()
    address = hub.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return str(address)


def stored_folder(folder: str | os.PathLike[str], revision: str | None, names: Sequence[str]) -> Path:
    """Return a folder; where there is none, a word of the form `owner/name` is looked up on the hub.

    Args:
        folder: a folder, or a repository.
        revision: of the repository.
        names: files to download.

    Raises:
        FileNotFoundError: if it names neither; the message says so.
    """
    source = Path(folder)
    if source.exists() or len(source.parts) != 2 or source.is_absolute():
        return source
    repository = source.as_posix()
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(names)))
    except (OSError, ValueError) as failure:  # the hub's own failures are both
        raise FileNotFoundError(
            f"{repository}: there is no such folder, and no such repository of the hub can be reached"
        ) from failure
