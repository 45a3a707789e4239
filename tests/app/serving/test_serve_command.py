"""`vlm-heads serve`, as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest

from tests.support.command import Mistake
from tests.support.serving import user
from vlm_heads.models import planted_image

ASKED = {"messages": [user(planted_image("car"))], "max_tokens": 8}


@contextmanager
def started(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command; yield its process and the address it prints."""
    run = [sys.executable, "-m", "vlm_app.cli", "serve", *words, "--port", "0", "--json"]
    with subprocess.Popen(
        run, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        printed = "".join(process.stdout.readline() for _ in range(4))
        try:
            yield process, json.loads(printed)["url"]
        finally:
            process.kill()


def test_it_answers_and_says_what_is_under_way_to_its_end() -> None:
    """Told to end in the middle of an answer, it says that one to its end, takes no other, and leaves with 0."""
    with started("mini", "--name", "house/model", "--with", "vhr:gain=1.5") as (process, url):
        address = f"{url}/chat/completions"
        asked = {"model": "house/model", **ASKED, "stream": True, "max_tokens": 60}
        with httpx2.stream("POST", address, json=asked, timeout=60) as answer:
            lines = answer.iter_lines()
            first = json.loads(next(lines).removeprefix("data: "))
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert first["mitigation"] == "vhr:gain=1.5"
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"]
        assert process.wait(timeout=120) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/models", timeout=60)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_key_from_the_environment_and_ctrl_c() -> None:
    with started("planted", VLM_HEADS_SERVE_KEY="s3cret") as (process, url):
        asked = {"model": "planted", **ASKED}
        assert httpx2.post(f"{url}/chat/completions", json=asked, timeout=60).status_code == 401
        answer = httpx2.post(
            f"{url}/chat/completions", json=asked, headers={"Authorization": "Bearer s3cret"}, timeout=60
        )
        assert answer.json()["choices"][0]["message"]["content"].startswith("there is a ")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0


def test_mistakes_are_one_line(mistake: Mistake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "give another --port" in mistake("serve", "planted", "--port", taken.getsockname()[1])
    assert "did you mean 'vhr'" in mistake("serve", "planted", "--with", "vrh")
    assert "mini" in mistake("serve", "mni")
    assert "--api-key is empty" in mistake("serve", "planted", "--api-key", " ")
