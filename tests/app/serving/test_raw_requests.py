"""What no good client sends: broken bodies, bombs, names of other machines, and connections that end in the middle."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from vlm_app.serving import pictures, server
from vlm_app.serving.server import Guard

from tests.app.test_mistakes import bomb
from tests.support.serving import Serving, data_url, serving, user, wait_until
from vlm_heads import VLM
from vlm_heads.models import planted_image

JSON = {"Content-Type": "application/json"}
CAR = planted_image("car")


@pytest.fixture(scope="module")
def served(planted: VLM) -> Iterator[Serving]:
    with serving(planted) as found:
        yield found


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "planted", "messages": [user(CAR)], "max_tokens": 2, **changes}


def post(found: Serving, content: bytes | str, headers: dict[str, str] = JSON) -> httpx2.Response:
    return httpx2.post(f"{found.url}/v1/chat/completions", content=content, headers=headers, timeout=60)


def get(url: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    return httpx2.get(url, headers=headers, timeout=60)


def refused(answer: httpx2.Response) -> str:
    """Return what a refusal says, which is one line in OpenAI's shape."""
    said: str = answer.json()["error"]["message"]
    assert said
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"model": "planted"}',
        b"[" * 100_000,
        json.dumps(body(messages=[])),
        json.dumps(body(messages=[{"role": "user", "content": "who?"}])),
        json.dumps(body(messages=[user(CAR), user(CAR)])),
        json.dumps(body(messages=[user(CAR), {"role": "assistant", "content": "a car"}])),
        json.dumps(body(messages=[user(CAR, "")])),
        json.dumps(body(messages=[user(CAR)] * 300)),
        json.dumps(body(messages=[{"role": "tool", "content": "x"}])),
        json.dumps(body(messages=[{"role": "user", "content": [{"type": "input_audio"}]}])),
        json.dumps(body(messages=[{"role": "assistant", "content": user(CAR)["content"]}, user("x")])),
        json.dumps(body(temperature=float("nan"))),
        json.dumps(body(temperature="1e999")),
        json.dumps(body(max_tokens=10**30)),
        json.dumps(body(seed=2**70)),
        json.dumps(body(stop=5)),
    ],
    ids=range(21),
)
def test_a_broken_body_is_refused(served: Serving, content: bytes | str) -> None:
    answer = post(served, content)
    assert answer.status_code == 400
    refused(answer)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,abc",
        "data:image/png,plain",
        "data:text/plain;base64,aGVsbG8=",
    ],
)
def test_what_is_no_picture_is_refused(served: Serving, url: str) -> None:
    answer = post(served, json.dumps(body(messages=[user(url)])))
    assert answer.status_code in (400, 403)
    refused(answer)


def test_a_bomb_is_refused_and_never_decoded(served: Serving, tmp_path: Path) -> None:
    bomb(tmp_path / "bomb.png")
    before = _resident()
    answers = [post(served, json.dumps(body(messages=[user(tmp_path / "bomb.png")]))) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {400}
    assert "too large" in refused(answers[0])
    assert _resident() - before < 100 * 2**20  # decoded it would take 1.2 GB


def test_a_picture_that_is_cut_off_is_refused(served: Serving, tmp_path: Path) -> None:
    CAR.resize((300, 300)).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    answer = post(served, json.dumps(body(messages=[user(content[: len(content) // 2])])))
    assert answer.status_code == 400
    assert "broken" in refused(answer)


@pytest.mark.parametrize("kind", [None, "text/plain", "multipart/form-data"])
def test_what_a_page_elsewhere_could_send_unasked_is_refused(served: Serving, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert post(served, json.dumps(body()), headers).status_code == 415
    assert post(served, json.dumps(body()), {"Content-Type": "application/json; charset=utf-8"}).status_code == 200


def test_too_large_a_body_is_refused_before_it_is_read(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGEST_BODY", 10_000)
    assert post(served, json.dumps(body(user="x" * 20_000))).status_code == 413
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "LARGEST", 100)
    assert post(served, json.dumps(body())).status_code == 413


def test_a_body_that_never_comes_is_given_up(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    with _connected(served, _head(1000)) as slow:
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_name_that_is_not_this_machine_s_is_refused(planted: VLM) -> None:
    names = frozenset({"127.0.0.1", "localhost"})
    with serving(planted, guard=Guard(names=names)) as found:
        assert get(f"{found.url}/v1/models").status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "[::1]:80"):
            answer = get(f"{found.url}/v1/models", headers={"Host": host})
            assert answer.status_code == 403
            refused(answer)


def test_a_key_guards_all_but_health(planted: VLM) -> None:
    with serving(planted, guard=Guard("s3cret")) as found:
        assert get(f"{found.url}/health").text == "ok"
        for path in ("/metrics", "/v1/models", "/v1/models/planted"):
            answer = get(found.url + path)
            assert answer.status_code == 401
            assert "s3cret" not in refused(answer)
        assert post(found, json.dumps(body())).status_code == 401


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/v1", "/v1/completions"])
def test_there_is_nothing_else(served: Serving, path: str) -> None:
    answer = get(served.url + path)
    assert answer.status_code == 404
    refused(answer)


def test_metrics_are_what_prometheus_reads(served: Serving) -> None:
    assert post(served, json.dumps(body())).status_code == 200
    answer = get(f"{served.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {}
    for line in answer.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"\})? [0-9.e+-]+', line), line
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name not in samples
            samples[name] = float(value)
    buckets = [value for name, value in samples.items() if name.startswith("vlm_heads_request_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == samples["vlm_heads_request_seconds_count"]
    assert samples['vlm_heads_requests_total{status="200"}'] >= 1
    assert samples["vlm_heads_waiting"] == 0


def test_more_than_can_be_inside_are_told_when_to_come_again(talkative: VLM) -> None:
    long = {"model": talkative.name, "messages": [user(CAR)], "max_tokens": 3000}
    with serving(talkative, most=2) as found:
        with _streaming(found, long), _sent(found, long):
            wait_until(lambda: found.worker.waiting == 1)
            answer = post(found, json.dumps(long))
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            refused(answer)
            assert get(f"{found.url}/health").status_code == 200
        wait_until(lambda: post(found, json.dumps({**long, "max_tokens": 1})).status_code == 200)


KILLED = """
import http.client, json, sys
host, port, content = sys.argv[1:]
connection = http.client.HTTPConnection(host, int(port))
connection.request("POST", "/v1/chat/completions", content, {"Content-Type": "application/json"})
answer = connection.getresponse()
for line in iter(answer.readline, b""):
    print(line.decode().strip(), flush=True)
"""


def test_a_client_killed_in_the_middle_is_cancelled(talkative: VLM) -> None:
    long = json.dumps({"model": talkative.name, "messages": [user(CAR)], "max_tokens": 4000, "stream": True})
    with serving(talkative) as found:
        host, port = found.url.removeprefix("http://").split(":")
        started = [sys.executable, "-c", KILLED, host, port, long]
        with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None
            lines = [client.stdout.readline() for _ in range(9)]
            os.kill(client.pid, signal.SIGKILL)
            client.stdout.read()
        assert all(line.startswith("data: {") for line in lines[::2])
        wait_until(lambda: "vlm_heads_cancelled_total 1\n" in found.worker.counts.exposition({}))
        counted = found.worker.counts.exposition({})
        said = int(re.findall(r"vlm_heads_completion_tokens_total (\d+)", counted)[0])
        assert 0 < said < 4000
        assert 'vlm_heads_requests_total{status="499"} 1\n' in counted


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_it_waits_is_forgotten(talkative: VLM, stream: bool) -> None:
    short = {"model": talkative.name, "messages": [user(CAR)], "max_tokens": 40, "stream": stream}
    with serving(talkative) as found:
        with _streaming(found, {**short, "max_tokens": 4000}), _sent(found, short):
            wait_until(lambda: found.worker.waiting == 1)
        wait_until(lambda: "vlm_heads_cancelled_total 2\n" in found.worker.counts.exposition({}))
        assert found.worker.waiting == 0


@pytest.mark.slow
def test_a_thousand_requests_leave_memory_as_it_was(planted: VLM) -> None:
    content = [json.dumps(body(messages=[user(planted_image(word))], stream=word == "car")) for word in ("car", "bird")]
    content.append(json.dumps(body(mitigation="vhr:gain=2")))
    content.append(json.dumps(body(messages=[user(b"no picture")])))
    with serving(planted) as found, httpx2.Client() as client, ThreadPoolExecutor(8) as clients:
        address = f"{found.url}/v1/chat/completions"

        def ask(index: int) -> int:
            return client.post(address, content=content[index % 4], headers=JSON, timeout=60).status_code

        list(clients.map(ask, range(300)))
        before, threads = _resident(), threading.active_count()
        statuses = list(clients.map(ask, range(1000)))
        assert statuses == [400 if index % 4 == 3 else 200 for index in range(1000)]
        assert _resident() - before < 16 * 2**20
        assert threading.active_count() <= threads
        assert found.worker.waiting == 0


def _resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _head(length: int) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}"
    )
    return f"{head}\r\n\r\n".encode()


def _connected(found: Serving, sent: bytes) -> socket.socket:
    host, port = found.url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)), timeout=20)
    made.sendall(sent)
    return made


def _sent(found: Serving, content: dict[str, Any]) -> socket.socket:
    """Return a connection on which a request was sent."""
    written = json.dumps(content).encode()
    return _connected(found, _head(len(written)) + written)


def _streaming(found: Serving, content: dict[str, Any]) -> socket.socket:
    """Return a connection on which an answer has begun."""
    made = _sent(found, {**content, "stream": True})
    assert made.recv(1000).startswith(b"HTTP/1.1 200 ")
    return made


def test_data_urls_are_told_from_others() -> None:
    assert pictures.of_data(data_url(b"abc")) == b"abc"
    assert pictures.of_data("DATA:;BASE64,YWJj") == b"abc"
