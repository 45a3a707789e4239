"""Sample, Answer and Score, and the JSON files they live in.

A sample is what is asked, an answer is what came back, a score is what one answer is worth together with its evidence.
Figures of a corpus are neither: a `Metric` says how they come from scores.
"""

import contextlib
import io
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from vlm_evals.errors import EvaluationError, FileFormatError

Label = Literal["yes", "no"]
_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)(?:\.[A-Za-z]{3,4})?")


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing to ask a model.

    Attributes:
        sample_id: unique within a task; answers are matched by it.
        image: path of the image file.
        prompt: the user's turn.
        image_id: the image's id in the ground truth.
        label: the right answer of a yes-or-no question, else None.
        split: the part of the task it belongs to, such as "popular".
    """

    sample_id: str
    image: str
    prompt: str
    image_id: str = ""
    label: Label | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said about one sample.

    Attributes:
        sample_id: the sample's id.
        text: the decoded answer; empty where `error` is set.
        token_ids: the generated tokens.
        seconds: wall-clock time this sample took, its share of its batch.
        receipt: what interventions did, as plain data.
        error: why there is no answer, such as an unreadable image.
        margin: log-probability of yes minus that of no as the first token, of a question that is answered so; None
            where it was not recorded.
        either: probability that the first token is yes or no, likewise.
        ends: tokens -> where in the text so many end, for the budgets of `text.budget` that the answer exceeds; empty
            where that was not recorded.
        usage: `prompt_tokens` and `completion_tokens` as a server counted them; empty where it was not asked.
    """

    sample_id: str
    text: str
    token_ids: tuple[int, ...] = ()
    seconds: float = 0.0
    receipt: Mapping[str, Any] | None = None
    error: str | None = None
    margin: float | None = None
    ends: Mapping[int, int] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)
    either: float | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Answer":
        """Return the answer a row of answers.jsonl holds.

        Raises:
            EvaluationError: if a field is missing or has another type.
        """
        sample_id, text = row.get("sample_id"), row.get("text")
        tokens, seconds = row.get("token_ids", ()), row.get("seconds", 0.0)
        receipt, error, margin = row.get("receipt"), row.get("error"), row.get("margin")
        ends, either = row.get("ends", {}), row.get("either")
        if not isinstance(sample_id, str) or not isinstance(text, str):
            raise EvaluationError("an answer needs `sample_id` and `text`, both strings")
        if not isinstance(tokens, list | tuple) or not all(type(token) is int for token in tokens):
            raise EvaluationError("`token_ids` of an answer is a list of integers")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
            raise EvaluationError(f"`seconds` of an answer is a time, and {seconds!r} is none")
        if not (error is None or isinstance(error, str)):
            raise EvaluationError("`error` of an answer is a string or null")
        if not _is_receipt(receipt):
            raise EvaluationError("`receipt` of an answer is an object that lists `interventions`, or null")
        if margin is not None and not (type(margin) in (int, float) and math.isfinite(margin)):
            raise EvaluationError(f"`margin` of an answer is a finite number or null, and {margin!r} is neither")
        if either is not None and not (type(either) in (int, float) and 0 <= either <= 1.000001):
            raise EvaluationError(f"`either` of an answer is a probability or null, and {either!r} is neither")
        if not _are_ends(ends, text):
            raise EvaluationError("`ends` of an answer tells by numbers of tokens where in its text they end")
        usage = row.get("usage", {})
        if not isinstance(usage, dict) or not all(type(count) is int and count >= 0 for count in usage.values()):
            raise EvaluationError("`usage` of an answer counts tokens by name")
        ends = {int(count): end for count, end in ends.items()}
        return cls(sample_id, text, tuple(tokens), float(seconds), receipt, error, margin, ends, usage, either)

    def as_row(self) -> dict[str, Any]:
        """Return plain data for answers.jsonl; margin, ends and usage stand there where they were recorded."""
        row = asdict(self)
        for name in ("margin", "either"):
            if row[name] is None:
                del row[name]
        del row["ends"]
        if self.ends:
            row["ends"] = {str(count): end for count, end in self.ends.items()}
        if not self.usage:
            del row["usage"]
        return row


def _are_ends(value: object, text: str) -> bool:
    """Whether a value tells by numbers of tokens where in a text they end."""
    return isinstance(value, dict) and all(
        name.isdecimal() and type(end) is int and 0 <= end <= len(text) for name, end in value.items()
    )


def _is_receipt(value: object) -> bool:
    """Whether a value is what an attachment leaves, as far as it is read again."""
    if value is None:
        return True
    listed = value.get("interventions", []) if isinstance(value, dict) else None
    return isinstance(listed, list) and all(
        isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("layers"), list)
        for one in listed
    )


@dataclass(frozen=True, slots=True)
class Score:
    """What one answer is worth: the same for every metric.

    Attributes:
        key: pairs answers between runs; the sample's id where a protocol asked.
        unit: what the bootstrap draws, such as the image: all scores of a unit are drawn together.
        counts: the integers that figures are sums and ratios of.
        split: the part of the task it belongs to; empty where there are none.
        evidence: what the counts were read from, as plain data.
    """

    key: str
    unit: str
    counts: Mapping[str, int]
    split: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


def image_key(image_id: object) -> str:
    """Return the name under which an image is known: "73" for 73, "000000000073.jpg" and "COCO_val2014_…73.jpg".

    Raises:
        EvaluationError: if it is neither an integer nor a name.
    """
    if isinstance(image_id, str) and image_id.isdecimal() and image_id[0] != "0":
        return image_id  # as the keys of an index are, forty thousand at a time
    if isinstance(image_id, int) and not isinstance(image_id, bool):
        return str(image_id)
    if not isinstance(image_id, str) or not image_id.strip():
        raise EvaluationError(f"{image_id!r} is no image id; it is an integer or the name of an image file")
    name = image_id.strip().replace("\\", "/").rsplit("/", 1)[-1]
    match = _COCO_NAME.fullmatch(name)
    return match[1] if match else name


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = sha256()
    with _opened(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: Path) -> str:
    """Return a UTF-8 file as text, without a byte-order mark.

    Raises:
        FileFormatError: naming the line that is not UTF-8, or that the file cannot be read.
    """
    with _opened(path) as stream:
        data: bytes = stream.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileFormatError(path, line, f"is not UTF-8 text ({error.reason})") from error


def read_json(path: Path) -> Any:
    """Return the JSON value a file holds.

    Raises:
        FileFormatError: naming the line where it stops being JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FileFormatError(path, error.lineno, f"is not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, None, f"is not JSON that can be used ({error})") from error


def read_own_json(path: Path) -> Any:
    """Return the JSON value of a file that this package wrote: every number in it is finite.

    Raises:
        FileFormatError: naming the line where it stops being JSON, or a number that is not finite.
    """
    value = read_json(path)
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, None, f"is not JSON that can be used ({error})") from error
    return value


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of a JSON-lines file, of a JSON list of objects, or of a single object.

    Blank lines are passed over.

    Raises:
        FileFormatError: naming the line that is not a JSON object.
    """
    text = read_text(path)
    start = len(text) - len(text.lstrip())
    listed = text.startswith("[", start)
    position, line, counted = start + listed, 1, 0
    while True:
        position = _next_value(text, position)
        line, counted = line + text.count("\n", counted, position), position
        if position == len(text) or (listed and text[position] == "]"):
            break
        value, position = _decode(path, line, text, position, listed)
        yield line, value
    if listed and text[position:].strip() != "]":
        raise FileFormatError(path, line, "the list of objects is not closed, or something follows it")


_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"\s*")


def _next_value(text: str, position: int) -> int:
    return _BETWEEN.match(text, position).end()  # type: ignore[union-attr]  # the pattern matches anywhere


def _decode(path: Path, line: int, text: str, position: int, listed: bool) -> tuple[dict[str, Any], int]:
    """Return the object at a position and where what follows it starts."""
    try:
        value, end = _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise FileFormatError(path, error.lineno, f"is not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(path, line, f"is not JSON that can be used ({error})") from error
    if not isinstance(value, dict):
        raise FileFormatError(path, line, f"holds {type(value).__name__}, not a JSON object")
    if not listed:
        line_end = text.find("\n", end)
        rest = text[end : line_end if line_end >= 0 else len(text)]
        if rest.strip():
            raise FileFormatError(path, line, f"something follows the object: {rest.strip()[:40]!r}")
        return value, end
    end = _next_value(text, end)
    if text.startswith(",", end):
        return value, end + 1
    if not text.startswith("]", end):
        raise FileFormatError(path, line, "a comma or the end of the list is missing after this object")
    return value, end


def cache_folder() -> Path:
    """Return the user's folder for what can be made again; it need not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vlm-heads"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step, and the folders it stands in where they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


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


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON in one step; a number that is not finite is refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines in one step."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        stream = _piped(path) or open(path, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise FileFormatError(path, None, "there is no such file") from error
    except (OSError, ValueError) as error:  # a name with a null character is the latter
        raise FileFormatError(path, None, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    with stream:
        try:
            yield stream
        except OSError as error:
            raise FileFormatError(path, None, f"cannot be read ({error.strerror})") from error


_PIPES: dict[tuple[int, int], bytes] = {}


def _piped(path: Path) -> io.BytesIO | None:
    """Return what a pipe holds, which can be taken out once and is asked for twice; None for what is no pipe."""
    found = os.stat(path)
    if not stat.S_ISFIFO(found.st_mode):
        return None
    key = found.st_dev, found.st_ino
    if key not in _PIPES:
        with open(path, "rb") as stream:
            _PIPES[key] = stream.read()
    return io.BytesIO(_PIPES[key])
