"""Measures a whole call of `vlm-heads`, from the start of Python to its end, beside a Python that does nothing."""

import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from typing import Any

from vlm_evals.data.formats import write_captions
from vlm_evals.errors import EvaluationError

from vlm_app.speed.judge import IMAGES, made_captions, made_truth, write_index

CAPTIONS = 500
BARE = ("-c", "pass")
CALL = ("-m", "vlm_app.cli")


def bench_processes(
    files: tuple[Path, Path] | None = None,
    *,
    captions: int = CAPTIONS,
    words: int = 100,
    rounds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the processor time of whole processes, user and system, the median over rounds.

    Args:
        files: captions to judge and their index of objects; made ones by default, on an index of 40,504 images.
        captions: how many are made.
        words: their length, at least.
        rounds: how often each call is timed; the calls take turns.
        seed: of the made captions and index.

    Returns:
        `bare_seconds` (`python -c pass`), `calls` (call -> `seconds` and `ratio` to the bare process), `captions` (the
        file, or how many were made) and `rounds`.

    Raises:
        EvaluationError: if a call fails, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, truth = files or _made_files(Path(folder), captions, words, seed)
        calls = {
            "vlm-heads --help": [*CALL, "--help"],
            "vlm-heads judge --help": [*CALL, "judge", "--help"],
            "vlm-heads judge chair": [*CALL, "judge", "chair", str(file), "--truth", str(truth)],
        }
        spent: dict[str, list[float]] = {name: [] for name in ("", *calls)}
        for _ in range(rounds):
            for name, call in {"": BARE, **calls}.items():
                spent[name].append(_processor_seconds(call))
    bare, *others = (median(seconds) for seconds in spent.values())
    return {
        "bare_seconds": bare,
        "calls": {
            name: {"seconds": seconds, "ratio": seconds / bare} for name, seconds in zip(calls, others, strict=True)
        },
        "captions": file.name if files else f"{captions} made",
        "rounds": rounds,
    }


def _made_files(folder: Path, captions: int, words: int, seed: int) -> tuple[Path, Path]:
    generator = random.Random(seed)
    file, truth = folder / "captions.jsonl", folder / "index.json"
    write_captions(file, made_captions(captions, words, generator))
    write_index(truth, made_truth(max(captions, IMAGES), generator))
    return file, truth


def _processor_seconds(arguments: Sequence[str]) -> float:
    """Return the user and system time of one Python process, what it starts itself included."""
    before = getrusage(RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    after = getrusage(RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise EvaluationError(f"`python {' '.join(arguments)}` failed and cannot be timed: {done.stderr.strip()}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
