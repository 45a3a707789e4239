"""One timed run on a GPU: its tests, whole generations, attention kernels, all in one table.

The parts run in this order, so that what matters most is there when the time is up. A part that no time is left for is
named as not run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from vlm_evals.runs import environment
from vlm_kernels.bench import SHAPES, ModelShape, Timing, measure, summary

from vlm_app.speed.timing import random_llava, time_generation

if TYPE_CHECKING:
    from vlm_heads import VLM, Mitigation

BATCHES = (1, 8, 32)
TESTS_SHARE = 0.45  # of the time, at most
LEAST = 15.0  # seconds that must be left for one more part to begin
TESTS = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests")


@dataclass(frozen=True)
class Session:
    """What a session does.

    Attributes:
        device: where.
        seconds: for everything.
        methods: makes the mitigations that are timed, for a model.
        config: the random model that generates, a name of `CONFIGS`.
        dtype: of its weights and of the kernels' operands.
        tokens, rounds: of whole generations.
        shapes: that the kernels are timed on.
        kernel_seconds: for each shape and phase.
        tests: the command that runs the tests, from the folder of a checkout.
    """

    device: torch.device
    seconds: float
    methods: Callable[[VLM], Mapping[str, Mitigation]]
    config: str = "300m"
    dtype: torch.dtype = torch.bfloat16
    tokens: int = 32
    rounds: int = 3
    shapes: Sequence[ModelShape] = SHAPES
    kernel_seconds: float = 1.5
    tests: Sequence[str] = TESTS

    def run(self, told: Callable[[str], None]) -> dict[str, Any]:
        """Return what was measured.

        Args:
            told: receives the name of each part when it begins.

        Returns:
            `about` (device, versions, sizes, seconds), `tests` (their last line, and their exit status), `generate`
            (batch -> way -> times), `kernels` (rows), `not_run` (the parts that no time was left for).
        """
        begun = monotonic()
        found: dict[str, Any] = {"tests": None, "generate": {}, "kernels": [], "not_run": []}
        for name, part in self._parts(found):
            if found["tests"] and monotonic() - begun > self.seconds - LEAST:
                found["not_run"].append(name)
                continue
            told(name)
            part()
        sizes = {"config": self.config, "dtype": str(self.dtype).removeprefix("torch.")}
        counts = {"tokens": self.tokens, "rounds": self.rounds, "seconds": round(monotonic() - begun)}
        return {"about": environment() | {"device": device_name(self.device)} | sizes | counts} | found

    def _parts(self, found: dict[str, Any]) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the parts by name; each puts what it measures into `found`."""
        for_tests = TESTS_SHARE * self.seconds
        yield "the tests that need the device", lambda: found.update(tests=run_tests(self.tests, for_tests))
        made: list[VLM] = []

        def generate(batch: int) -> None:
            if not made:
                made.append(random_llava(self.config, self.dtype))
                made[0].model.to(self.device)
            named = self.methods(made[0])
            ways = time_generation(made[0], named, tokens=self.tokens, rounds=self.rounds, batch=batch)
            found["generate"][str(batch)] = ways

        def attend(shape: ModelShape) -> None:
            rows = measure([shape], device=self.device, dtype=self.dtype, seconds=self.kernel_seconds)
            found["kernels"] += [asdict(row) for row in rows]

        for batch in BATCHES:
            yield f"generation, batch {batch}", lambda batch=batch: generate(batch)  # type: ignore[misc]
        for shape in self.shapes:
            yield f"attention, {shape.name}", lambda shape=shape: attend(shape)  # type: ignore[misc]


def run_tests(command: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return the last line that tests print, and their exit status; None for both where there are none or no end."""
    if not Path("tests").is_dir():
        return {"status": None, "said": "not run: there is no folder tests here, start in a checkout"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"status": None, "said": f"cut off after {seconds:.0f} s"}
    lines = [*done.stdout.strip().splitlines(), *done.stderr.strip().splitlines()] or ["they printed nothing"]
    return {"status": done.returncode, "said": lines[-1].strip("= ")}


def device_name(device: torch.device) -> str:
    """Return what a device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def session_page(found: Mapping[str, Any]) -> str:
    """Return a session as Markdown."""
    about = found["about"]
    lines = [
        f"{about['device']}, {about['dtype']}, torch {about['packages']['torch']}, started {about['started']}, "
        f"{about['seconds']} s in all: `vlm-heads bench gpu`.",
        "",
        f"Tests that need the device: {found['tests']['said']}.",
        "",
        f"Random {about['config']}, {about['tokens']} tokens, median of {about['rounds']} rounds, the ways by turns; "
        "times are of the whole batch:",
        "",
        "| batch | way | prefill, ms | × plain | ms per token | × plain | memory peak, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    keys = ("prefill_ms", "prefill_ratio", "decode_ms", "decode_ratio", "peak_mb")
    for batch, ways in found["generate"].items():
        for way, row in ways.items():
            cells = [f"{row[key]:.2f}" if key in row else "" for key in keys]
            lines.append(f"| {' | '.join([batch, way, *cells])} |")
    if found["not_run"]:
        lines += ["", f"No time was left for: {', '.join(found['not_run'])}."]
    return "\n".join([*lines, "", summary(Timing(**row) for row in found["kernels"])])
