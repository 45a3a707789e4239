"""Ask vLLM, which lives in an environment of its own: its Python runs `tests/app/bridges/ask_vllm.py`."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

VLLM_PYTHON = os.environ.get("VLLM_PYTHON", "")
no_vllm = "no vLLM here: `make test-serving` makes an environment for it and runs this"
ROOT = Path(__file__).parents[2]
PACKAGES = os.pathsep.join(str(ROOT / folder) for folder in (".", "kernels", "evals", "app"))

Question = dict[str, object]


def question(image: Path | None, prompt: str | list[int], tokens: int, wish: str | None = None) -> Question:
    """Return one request: a picture or none, a prompt as text or ids, and what its `vlm_heads` asks for."""
    return {"image": None if image is None else str(image), "prompt": prompt, "tokens": tokens, "wish": wish}


def asked(
    checkpoint: Path, rounds: Sequence[Sequence[Question]], *, profile: str = "", profiles: str = "", **engine: object
) -> subprocess.CompletedProcess[str]:
    """Run vLLM on a checkpoint and return how it ended.

    Args:
        checkpoint: a folder.
        rounds: questions; those of a round are asked together, after the round before it is answered.
        profile: `VLM_HEADS_PROFILE`.
        profiles: `VLM_HEADS_PROFILES`.
        engine: vLLM's own arguments.
    """
    named = {"VLM_HEADS_PROFILE": profile, "VLM_HEADS_PROFILES": profiles, "PYTHONPATH": PACKAGES}
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return subprocess.run(
        [VLLM_PYTHON, str(ROOT / "tests" / "app" / "bridges" / "ask_vllm.py"), str(checkpoint)],
        input=json.dumps({"engine": engine, "rounds": list(map(list, rounds))}),
        env={**os.environ, **named, **quiet, "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def answers(
    checkpoint: Path, rounds: Sequence[Sequence[Question]], **arguments: object
) -> list[list[tuple[int, ...] | str]]:
    """Return each round's answers: generated ids, or why the request was refused; see `asked`."""
    given: Mapping[str, object] = arguments
    done = asked(checkpoint, rounds, **given)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    found = json.loads(line.removeprefix("ANSWERS "))
    return [[one if isinstance(one, str) else tuple(one) for one in told] for told in found]
