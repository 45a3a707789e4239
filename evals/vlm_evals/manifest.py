"""Which files of a run directory hold answers, and which answers they held when the run ended.

    answers.jsonl                   of one process, or merged
    answers.SHARD-of-SHARDS.jsonl   of one of several processes, until they are merged
    manifest.json                   sample id -> digest of its line, written when all is answered

Any other file is somebody's own: it is neither read nor deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from vlm_evals.errors import FileFormatError, RunError
from vlm_evals.records import Answer, read_own_json, write_json

MANIFEST = "manifest.json"
WHOLE = "answers.jsonl"
_SHARD = re.compile(r"answers\.(\d+)-of-(\d+)\.jsonl")
_NAMED = 3  # edited answers that a message names


def answer_file(folder: Path, shard: int, shards: int) -> Path:
    """Return the file that a process appends its answers to."""
    return folder / (WHOLE if shards == 1 else f"answers.{shard}-of-{shards}.jsonl")


def answer_files(folder: Path) -> list[Path]:
    """Return the files of a run directory that hold answers, in the order they are read."""
    return [path for path in sorted(folder.glob("answers*.jsonl")) if _holds_answers(path.name) and path.is_file()]


def _holds_answers(name: str) -> bool:
    shard = _SHARD.fullmatch(name)
    return name == WHOLE or (shard is not None and int(shard[1]) < int(shard[2]))


def digest(line: bytes) -> str:
    """Return the digest of one answer's line, without its line end."""
    return sha256(line.rstrip(b"\n")).hexdigest()[:16]


def write_manifest(folder: Path, digests: Mapping[str, str]) -> None:
    """Write which answers a run directory holds."""
    write_json(folder / MANIFEST, {"answers": dict(digests)})


def read_manifest(folder: Path) -> dict[str, str] | None:
    """Return sample id -> digest; None in a directory that has not been answered to the end, or long ago.

    Raises:
        FileFormatError: if the file is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    value = read_own_json(path)
    stated = value.get("answers") if isinstance(value, dict) else None
    if not isinstance(stated, dict) or not all(isinstance(one, str) for one in stated.values()):
        raise FileFormatError(path, None, "is no manifest; delete it, and the answers are taken as they are")
    return stated


def require_unedited(folder: Path, found: Mapping[str, tuple[str, Path, int]]) -> None:
    """Refuse answers that are not those the run ended with; missing ones will be asked again.

    Args:
        folder: the run directory.
        found: sample id -> digest, file and line of every answer.

    Raises:
        RunError: naming the edited answers.
    """
    known = read_manifest(folder)
    if known is None:
        return
    edited = [(name, place) for name, place in found.items() if known.get(name, place[0]) != place[0]]
    if edited:
        named = ", ".join(f"{name} ({path.name}, line {line})" for name, (_, path, line) in edited[:_NAMED])
        raise RunError(
            f"{folder}: {len(edited)} answers were edited after the run, such as {named}; put them back, or delete "
            f"{MANIFEST} to take them as they are"
        )


def forget_missing(folder: Path, found: Iterable[str]) -> None:
    """Leave in the manifest the answers that are still there: the others are asked again, and may differ."""
    known = read_manifest(folder)
    if known is not None and (gone := known.keys() - set(found)):
        write_manifest(folder, {name: one for name, one in known.items() if name not in gone})


def content_of(answers: Iterable[Answer]) -> list[list[str | None]]:
    """Return what a report's hash of its answers is taken of: who was asked and what was said, and no times."""
    return [[answer.sample_id, answer.text, answer.error] for answer in answers]
