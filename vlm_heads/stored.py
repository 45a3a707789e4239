"""What is saved and shared: files written in one step, and folders of the Hugging Face hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: to a neighbour first, then renamed over it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as stream:
        try:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            os.unlink(stream.name)
            raise
    os.chmod(stream.name, 0o644)
    os.replace(stream.name, path)


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
