"""Ask vLLM, which lives in an environment of its own: its Python runs `tests/app/bridges/ask_vllm.py`."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

VLLM_PYTHON = os.environ.get("VLLM_PYTHON", "")
no_vllm = "no vLLM here: `make test-serving` makes an environment for it and runs this"
ROOT = Path(__file__).parents[2]
PACKAGES = os.pathsep.join(str(ROOT / folder) for folder in (".", "kernels", "evals", "app"))

QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}

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
    return subprocess.run(
        [VLLM_PYTHON, str(ROOT / "tests" / "app" / "bridges" / "ask_vllm.py"), str(checkpoint)],
        input=json.dumps({"engine": engine, "rounds": list(map(list, rounds))}),
        env={**os.environ, **named, **QUIET, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
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


@contextmanager
def vllm_server(checkpoint: Path, log: Path, seconds: float = 600.0) -> Iterator[str]:
    """Run vLLM's OpenAI server on a checkpoint, in float32, while the context lasts; yield its address with /v1.

    Args:
        checkpoint: a folder.
        log: a file for what it prints.
        seconds: that it may take to start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["--model-impl", "transformers", "--dtype", "float32", "--enforce-eager", "--generation-config", "vllm"]
    words += ["--max-model-len", "256", "--max-num-seqs", "8", "--limit-mm-per-prompt", '{"image": 1}']
    command = [VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint), *words]
    with (
        log.open("wb") as printed,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port],
            env={**os.environ, **QUIET, "PYTHONPATH": PACKAGES},
            stdout=printed,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        try:
            _wait_until_ready(server, f"http://127.0.0.1:{port}/health", seconds, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _wait_until_ready(server: subprocess.Popen[bytes], health: str, seconds: float, log: Path) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(health, timeout=10).close()
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return
    raise AssertionError(f"vLLM's server did not start: {log.read_text(errors='replace')[-4000:]}")
