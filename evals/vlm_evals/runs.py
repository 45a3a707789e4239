"""A run directory: what was asked and answered so far, safe against a second process, `kill -9` and a full disk.

protocol.json                 what is asked, and of whom; another one in the same directory is refused
answers.jsonl                 one line an answer, appended and flushed per batch
answers.SHARD-of-SHARDS.jsonl the same while several processes share the work, merged at the end
manifest.json                 which answers there were when all had been given: see `manifest`
environment.json              machine and versions of every start
notes.json                    what every report of the run says, such as how many pictures are missing
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from vlm_evals.errors import FileFormatError, RunError
from vlm_evals.manifest import (
    WHOLE,
    answer_file,
    answer_files,
    content_of,
    digest,
    forget_missing,
    require_unedited,
    write_manifest,
)
from vlm_evals.records import Answer, read_own_json, write_json, write_rows

REPORTED_PACKAGES = (
    "vlm-heads",
    "torch",
    "transformers",
    "accelerate",
    "numpy",
    "scipy",
    "nltk",
    "pycocotools",
    "pillow",
)
NOTES = "notes.json"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def canonical_json(value: object) -> str:
    """Return one spelling of a JSON value: keys sorted, no spaces, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: object) -> str:
    """Return the SHA-256 of a JSON value's canonical spelling, as hex."""
    return hashlib.sha256(canonical_json(value).encode(errors="surrogatepass")).hexdigest()


class Run:
    """A held run directory.

    Attributes:
        folder: the directory.
        answers: sample id -> answer, for everything answered so far by any process.
    """

    def __init__(self, folder: Path, shard: int, shards: int) -> None:
        self.folder = folder
        self.answers: dict[str, Answer] = {}
        self._path = answer_file(folder, shard, shards)
        self._file: IO[bytes] | None = None

    @property
    def failures(self) -> int:
        """Number of samples recorded with an error in place of an answer."""
        return sum(answer.error is not None for answer in self.answers.values())

    def append(self, answers: Iterable[Answer]) -> None:
        """Write a batch of answers and force it to disk.

        Raises:
            RunError: if a sample has been answered before, or the disk takes no more. What was written before stays.
        """
        fresh = {answer.sample_id: answer for answer in answers}
        if twice := fresh.keys() & self.answers.keys():
            raise RunError(f"{self.folder}: answered twice: {', '.join(sorted(twice)[:3])}")
        assert self._file is not None, "the run is not open"
        start = self._file.seek(0, os.SEEK_END)
        lines = [json.dumps(answer.as_row(), ensure_ascii=True, allow_nan=False) for answer in fresh.values()]
        try:
            _write_all(self._file.fileno(), "".join(f"{line}\n" for line in lines).encode())
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), start)
            raise _cannot_write(self._path, error) from error
        self.answers.update(fresh)

    def open(self) -> None:
        """Read what is there, cut a torn last line, and make ready to append."""
        self.answers = answers_in(self.folder)
        _cut_torn_line(self._path)
        self._file = self._path.open("ab", buffering=0)

    def close(self) -> None:
        """Take no more answers."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def open_run(
    folder: Path,
    identity: Mapping[str, Any],
    *,
    shard: int = 0,
    shards: int = 1,
    where: str | None = None,
    defaults: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Iterator[Run]:
    """Hold a run directory for this process, new or begun earlier.

    Args:
        folder: created where missing.
        identity: all that decides the answers, as JSON: the protocol, the model, the interventions.
        shard: number of this process, from 0.
        shards: how many processes share the work.
        where: address of the server that is asked, noted beside the machine; None for a model of our own.
        defaults: method -> option -> its default. A run of an earlier version, which did not know the option, counts
            as one with its default.

    Raises:
        RunError: if another process holds it, or it holds answers to another protocol.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f".lock-{shard}"):
        _claim(folder, identity, defaults)
        _note_environment(folder, shard, {"processes": shards} | ({} if where is None else {"endpoint": where}))
        run = Run(folder, shard, shards)
        run.open()
        if shard == 0:
            with _writing(folder):
                forget_missing(folder, run.answers)
        try:
            yield run
        finally:
            run.close()


def merge_answers(folder: Path, order: Sequence[str]) -> dict[str, Answer]:
    """Leave one `answers.jsonl` in the order of the samples, and return it; for one process, when all have ended.

    Raises:
        RunError: if a sample has no answer, or another process holds the directory.
    """
    with _locked(folder / ".lock-0"):
        found = answers_in(folder)
        if missing := [name for name in order if name not in found]:
            raise RunError(f"{folder}: no answer yet to {len(missing)} samples, the first is {missing[0]}")
        if unknown := found.keys() - set(order):
            raise RunError(
                f"{folder} holds {len(unknown)} answers to samples that are not asked, such as {min(unknown)}; move "
                "the file with them away"
            )
        answers = {name: found[name] for name in order}
        whole = folder / WHOLE
        with _writing(whole):
            write_rows(whole, [answer.as_row() for answer in answers.values()])
            write_manifest(folder, {name: one for name, (one, _, _) in _read(folder / WHOLE).places.items()})
        for path in answer_files(folder):
            if path != whole and not path.is_symlink():
                path.unlink()
    return answers


def answers_in(folder: Path) -> dict[str, Answer]:
    """Return sample id -> answer from a run directory, whole or begun; a torn last line is left out.

    Raises:
        FileFormatError: for a line that is no answer.
        RunError: if two files hold different answers to one sample, or answers were edited after the run.
    """
    answers: dict[str, Answer] = {}
    places: dict[str, tuple[str, Path, int]] = {}
    for path in answer_files(folder):
        read = _read(path)
        for name, answer in read.answers.items():
            if answers.setdefault(name, answer) != answer:
                raise RunError(
                    f"{folder}: {places[name][1].name} and {path.name} hold different answers to sample {name}; move "
                    "one of the files away"
                )
        places |= {name: place for name, place in read.places.items() if name not in places}
    require_unedited(folder, places)
    return answers


class _Read(NamedTuple):
    """One file of answers: sample id -> answer, and sample id -> digest, file and line."""

    answers: dict[str, Answer]
    places: dict[str, tuple[str, Path, int]]


def _read(path: Path) -> _Read:
    found = _Read({}, {})
    with _reading(path):
        content = path.read_bytes()
    for number, line in enumerate(_whole_lines(content).splitlines(), start=1):
        answer = _parse(line, path, number)
        if answer.sample_id not in found.answers:
            found.answers[answer.sample_id] = answer
            found.places[answer.sample_id] = digest(line), path, number
    return found


def answers_hash(answers: Mapping[str, Answer]) -> str:
    """Return the hash that ties a report to its answers: of what was said, whatever time it took."""
    return content_hash(sorted(content_of(answers.values()), key=lambda row: str(row[0])))


def require_complete(folder: Path, names: Sequence[str], answers: Mapping[str, Answer]) -> None:
    """Refuse a run directory that has not been answered to the end.

    Raises:
        RunError: saying how many of the samples have no answer.
    """
    if missing := sum(name not in answers for name in names):
        raise RunError(f"{folder}: {missing} of {len(names)} samples have no answer yet: start the same eval again")


def keep_notes(folder: Path, notes: Sequence[str]) -> None:
    """Write the sentences that every report of a run carries, where there are any."""
    if notes:
        write_json(folder / NOTES, list(notes))


def kept_notes(folder: Path) -> list[str]:
    """Return the sentences that every report of a run carries.

    Raises:
        FileFormatError: if the file holds anything else.
    """
    path = folder / NOTES
    notes = read_own_json(path) if path.is_file() else []
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise FileFormatError(path, None, "is no list of sentences; start the same eval again, and it is written anew")
    return notes


def read_identity(folder: Path) -> dict[str, Any]:
    """Return what a run directory's protocol.json holds.

    Raises:
        RunError: if the folder is no run directory.
        FileFormatError: if the file is damaged.
    """
    path = folder / "protocol.json"
    if not path.is_file():
        raise RunError(f"{folder} is no run directory: it has no protocol.json")
    value = read_own_json(path)
    if not isinstance(value, dict):
        raise FileFormatError(path, None, "is no JSON object; delete the run directory and run again")
    return value


def read_setting(folder: Path) -> dict[str, Any]:
    """Return who answered in a run, as its protocol.json says.

    Raises:
        FileFormatError: if the entry is damaged.
    """
    setting = read_identity(folder).get("setting", {})
    listed = setting.get("interventions", []) if isinstance(setting, dict) else None
    second = [setting["contrast"]] if isinstance(setting, dict) and setting.get("contrast") else []
    named = isinstance(listed, list) and all(isinstance(one, dict) and "name" in one for one in [*listed, *second])
    if not isinstance(setting, dict) or not named:
        reason = "`setting` does not say who answered; put the file back, or delete the run directory"
        raise FileFormatError(folder / "protocol.json", None, reason)
    return setting


def _parse(line: bytes, path: Path, number: int) -> Answer:
    try:
        row = json.loads(line)
        return Answer.from_row(row if isinstance(row, dict) else {})
    except (ValueError, RecursionError) as error:  # JSON's, the decoder's, and EvaluationError
        raise FileFormatError(path, number, f"is not an answer ({error})") from error


def _whole_lines(content: bytes) -> bytes:
    """Return the content up to its last line end; a kill tore what follows."""
    return content[: content.rfind(b"\n") + 1]


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, len(_whole_lines(content)))


def _write_all(descriptor: int, content: bytes) -> None:
    """Write everything: one call may write a part only when the disk is nearly full."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases when the process ends, however it ends."""
    with _writing(path):
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{path.parent} is in use by another process: wait for it, or choose another directory"
            ) from None
        yield


def _claim(folder: Path, identity: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the identity into a new directory, or compare it with the one there."""
    path = folder / "protocol.json"
    mine = json.loads(canonical_json(identity))
    if not path.exists():
        if answer_files(folder):
            raise RunError(f"{folder} holds answers but no protocol.json: choose another directory")
        with _writing(path):
            write_json(path, mine)
        return
    theirs = _completed(read_identity(folder), json.loads(canonical_json(dict(defaults))))
    if changed := sorted(_differences(theirs, mine)):
        raise RunError(
            f"{folder} holds another run, it differs in {', '.join(changed[:5])}: choose another directory or delete it"
        )


def _completed(value: Any, defaults: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a JSON value in which every method that is named says all of its options."""
    if isinstance(value, list):
        return [_completed(one, defaults) for one in value]
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    known = defaults.get(name, {}) if isinstance(name, str) else {}
    return {**known, **{key: _completed(one, defaults) for key, one in value.items()}}


def _differences(left: Any, right: Any, name: str = "") -> Iterator[str]:
    """Yield dotted names of the entries in which two JSON values differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in left.keys() | right.keys():
            yield from _differences(left.get(key), right.get(key), f"{name}.{key}".lstrip("."))
    elif left != right:
        yield name


def _note_environment(folder: Path, shard: int, more: dict[str, Any]) -> None:
    """Add this start to environment.json; the first process writes it for all."""
    if shard != 0:
        return
    path = folder / "environment.json"
    starts = read_own_json(path) if path.exists() else []
    if not isinstance(starts, list):
        raise FileFormatError(path, None, "is no list of starts; delete it, and it is begun anew")
    with _writing(path):
        write_json(path, [*starts, environment() | more])


def environment() -> dict[str, Any]:
    """Return the time, the machine and the versions that a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for name in REPORTED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": versions,
    }


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> RunError:
    if error.errno in NO_SPACE:
        return RunError(
            f"{path}: no space left; free some and start the same command again, it goes on where it stopped"
        )
    return RunError(f"{path}: cannot be written ({error.strerror}): choose another directory")
