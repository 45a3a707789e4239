"""Folders in the user's cache that are made once: whole, or not there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from vlm_evals.records import cache_folder
from vlm_heads.errors import UnsupportedModel

STAMP = "whole.json"


def kept_folder(name: str, made_from: Mapping[str, str], make: Callable[[Path], None]) -> Path:
    """Return a folder of the user's cache that `make` filled; it is made again where it is broken or foreign.

    A process that dies while it makes the folder leaves nothing that a later one takes for whole. Of several processes
    one makes the folder and the others wait.

    Args:
        name: of the folder.
        made_from: what decides the content; a folder made from anything else is foreign.
        make: fills the empty folder that it is given.

    Raises:
        UnsupportedModel: if the cache cannot be written.
    """
    target = cache_folder() / name
    if _is_whole(target, made_from):
        return target
    try:
        with _locked(target):
            if not _is_whole(target, made_from):
                _make(target, made_from, make)
    except OSError as failure:
        raise UnsupportedModel(
            f"{target} cannot be written ({failure}); set XDG_CACHE_HOME to a folder with room for a gigabyte"
        ) from failure
    return target


def save_from_here(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's checkpoint, whichever process of a distributed start this is.

    transformers lets rank 0 alone write. Here the process that holds the lock writes, and that may be any of them.
    """
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    try:
        model.save_pretrained(folder)
    finally:
        del model.should_save_on_this_rank


def _make(target: Path, made_from: Mapping[str, str], make: Callable[[Path], None]) -> None:
    draft = target.with_name(f".part-{target.name}")
    shutil.rmtree(draft, ignore_errors=True)  # what a process that died has left
    draft.mkdir()
    try:
        make(draft)
        stamp = {"made_from": dict(made_from), "files": _files(draft)}
        (draft / STAMP).write_text(json.dumps(stamp, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_whole(folder: Path, made_from: Mapping[str, str]) -> bool:
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return bool(stamp == {"made_from": dict(made_from), "files": _files(folder)})


def _files(folder: Path) -> dict[str, list[int]]:
    """Return name -> [bytes, CRC-32] of every file but the stamp."""
    return {path.name: _size_and_sum(path) for path in sorted(folder.iterdir()) if path.name != STAMP}


def _size_and_sum(path: Path) -> list[int]:
    """Return bytes and CRC-32: enough against accidents, and ten times as fast as a hash against forgery."""
    size = total = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            size, total = size + len(block), zlib.crc32(block, total)
    return [size, total]


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the folder's lock; it falls when the process ends, however it ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
