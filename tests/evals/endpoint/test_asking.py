"""Asking a server: in any order, after any kill and any failure the same records, and the key in none of them."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vlm_evals.answer import Processes
from vlm_evals.arms import Arm
from vlm_evals.data.coco import CocoFolder
from vlm_evals.endpoint.address import KEY, Endpoint
from vlm_evals.endpoint.asking import EndpointAsking
from vlm_evals.errors import RunError, TaskError
from vlm_evals.experiment import ask_arms
from vlm_evals.protocol import Protocol, sampling
from vlm_evals.records import Answer, Sample
from vlm_evals.runs import Run, answers_in, merge_answers, open_run
from vlm_evals.scored import score_run
from vlm_evals.tasks import bind, samples

from tests.support.chat_server import ChatServer, chat_server, refuses, says
from vlm_heads import HeadProfile, Mitigation

Task = tuple[Protocol, list[Sample]]


@pytest.fixture(scope="module")
def data(small_world: Path) -> CocoFolder:
    return CocoFolder.find(small_world)


@pytest.fixture(scope="module")
def captions(data: CocoFolder) -> Task:
    protocol = bind("coco", "chair", data, limit=None, seed=1, max_new_tokens=4)
    return protocol, [replace(one, prompt=f"{one.prompt} {one.sample_id}") for one in samples(protocol, data)]


def asking(server: ChatServer, concurrency: int = 4, **more: Any) -> EndpointAsking:
    endpoint = Endpoint(server.url, concurrency=concurrency, seconds=60, pause=0.01)
    return EndpointAsking(replace(endpoint, **more.pop("endpoint", {})), "tiny", **more)


def ask(folder: Path, asked: EndpointAsking, task: Task, order: Callable[[list[Sample]], list[Sample]] = list) -> Run:
    protocol, everything = task
    with open_run(folder, {"protocol": protocol.as_json()}, where=asked.where) as run:
        asked.answer(protocol, order(everything), run, processes=Processes(), progress=lambda count: None)
    return run


def echo(index: int, request: dict[str, Any]) -> Any:
    """Answer with what was asked, so that a mix-up would be seen."""
    return says(f" about {request['messages'][0]['content'][1]['text']} \n")


def said(answers: dict[str, Answer]) -> dict[str, tuple[str, str | None]]:
    return {name: (one.text, one.error) for name, one in answers.items()}


def test_every_sample_is_answered_once_with_its_own_answer(tmp_path: Path, captions: Task) -> None:
    with chat_server(echo) as server:
        run = ask(tmp_path, asking(server), captions)
        assert len(server.requests) == 12
        assert {name: one.text for name, one in run.answers.items()} == {
            one.sample_id: f"about {one.prompt}" for one in captions[1]
        }
        ask(tmp_path, asking(server), captions)
        assert len(server.requests) == 12
    assert run.answers["1"].usage == {"prompt_tokens": 7, "completion_tokens": 2}
    assert run.answers["1"].seconds > 0
    assert answers_in(tmp_path) == run.answers


def test_two_orders_give_the_same_records(tmp_path: Path, captions: Task) -> None:
    """Answers that come late, early and out of order leave one file, but for the times."""
    names = [one.sample_id for one in captions[1]]
    lines = []
    for folder, order in ((tmp_path / "one", list), (tmp_path / "other", lambda them: them[::-1])):
        with chat_server(echo, slow=0.01) as server:
            ask(folder, asking(server, concurrency=5), captions, order)
        merge_answers(folder, names)
        rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        lines.append([{**row, "seconds": 0} for row in rows])
    assert lines[0] == lines[1]
    assert [row["sample_id"] for row in lines[0]] == names


@pytest.mark.parametrize("most", [1, 3, 12])
def test_so_many_requests_are_under_way_at_once(tmp_path: Path, captions: Task, most: int) -> None:
    with chat_server(slow=0.08 * most) as server:
        ask(tmp_path, asking(server, concurrency=most), captions)
    assert server.most == most


def test_a_request_is_openais(tmp_path: Path, captions: Task) -> None:
    protocol, (first, *_) = captions
    with chat_server() as server:
        ask(tmp_path, asking(server), (protocol, [first]))
        ask(tmp_path / "other", asking(server), (replace(protocol, decoding=sampling(0.7)), [first]))
    greedy, drawn = server.requests
    content = greedy.pop("messages")
    picture = base64.b64encode(Path(first.image).read_bytes()).decode()
    assert content == [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
                {"type": "text", "text": first.prompt},
            ],
        }
    ]
    seed = greedy.pop("seed")
    assert greedy == {"model": "tiny", "max_tokens": 4, "temperature": 0}
    wanted = {"temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "seed": seed}
    assert {name: drawn[name] for name in wanted} == wanted


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(tmp_path: Path, captions: Task, status: int) -> None:
    """Every request fails twice before it is answered."""
    counts: dict[str, int] = {}

    def behave(index: int, request: dict[str, Any]) -> Any:
        prompt = request["messages"][0]["content"][1]["text"]
        counts[prompt] = counts.get(prompt, 0) + 1
        return says("yes") if counts[prompt] == 3 else (status, {"error": {"message": "busy"}})

    with chat_server(behave) as server:
        run = ask(tmp_path, asking(server), captions)
    assert set(counts.values()) == {3}
    assert {one.text for one in run.answers.values()} == {"yes"}


def test_a_wait_that_is_asked_for_is_kept(tmp_path: Path, captions: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    waited: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float, result: object = None) -> object:
        waited.append(seconds)
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", noted)
    first = (captions[0], captions[1][:1])
    for index, (header, expected) in enumerate({"7": 7.0, "900": 60.0, "Wed, 21 Oct 2026 07:28:00 GMT": 0.01}.items()):
        waited.clear()
        answers = iter([(429, {"error": "slow down"}), says("yes")])
        with chat_server(lambda index, request, them=answers: next(them), head={"Retry-After": header}) as server:
            ask(tmp_path / str(index), asking(server), first)
        (pause,) = [seconds for seconds in waited if seconds]
        assert expected / 2 <= pause <= expected


def test_pauses_grow(tmp_path: Path, captions: Task) -> None:
    with (
        chat_server(lambda index, request: (503, "overloaded")) as server,
        pytest.raises(RunError, match=r"no answer in 6 tries \(status 503: overloaded\): start the same command again"),
    ):
        ask(tmp_path, asking(server, concurrency=1), (captions[0], captions[1][:1]))
    assert len(server.requests) == 6


def test_a_server_that_is_gone_is_told_in_one_line(tmp_path: Path, captions: Task) -> None:
    with chat_server() as server:
        gone = asking(server, endpoint={"tries": 2})
    with pytest.raises(RunError, match="gave no answer in 2 tries") as refusal:
        ask(tmp_path, gone, captions)
    assert "\n" not in str(refusal.value)
    assert not answers_in(tmp_path)
    with pytest.raises(RunError, match="gave no answer"):
        EndpointAsking.find(gone.endpoint, "tiny")


def test_a_request_that_takes_too_long_is_given_up(tmp_path: Path, captions: Task) -> None:
    slow = {"seconds": 0.1, "tries": 2}
    with chat_server(slow=0.5) as server, pytest.raises(RunError, match="ReadTimeout"):
        ask(tmp_path, asking(server, endpoint=slow), captions)


def test_what_was_answered_before_a_server_went_is_kept(tmp_path: Path, captions: Task) -> None:
    def behave(index: int, request: dict[str, Any]) -> Any:
        return says("yes") if index < 5 else (503, "going down")

    with chat_server(behave) as server, pytest.raises(RunError, match="goes on where it stopped"):
        ask(tmp_path, asking(server, concurrency=1), captions)
    assert len(answers_in(tmp_path)) == 5
    with chat_server() as server:  # at another address
        ask(tmp_path, asking(server), captions)
        assert len(server.requests) == 7
    assert [start["endpoint"] for start in json.loads((tmp_path / "environment.json").read_text())][1] == server.url


def test_a_request_that_alone_is_refused_is_a_failure_of_its_sample(tmp_path: Path, captions: Task) -> None:
    def behave(index: int, request: dict[str, Any]) -> Any:
        bad = request["messages"][0]["content"][1]["text"].endswith(" 3")
        return (400, {"error": {"message": "cannot read\nthis picture"}}) if bad else says("yes")

    with chat_server(behave) as server:
        run = ask(tmp_path, asking(server), captions)
    assert [name for name, one in run.answers.items() if one.error] == ["3"]
    assert run.answers["3"].error == "status 400: cannot read this picture"


@pytest.mark.parametrize(
    "answer",
    [
        (200, "no json"),
        (200, [1]),
        (200, {}),
        (200, {"choices": []}),
        (200, {"choices": [{"message": {"content": 5}}]}),
    ],
)
def test_an_answer_that_is_none_is_a_refusal(tmp_path: Path, captions: Task, answer: Any) -> None:
    with (
        chat_server(lambda index, request: answer) as server,
        pytest.raises(RunError, match="answered nothing and refused 4 requests"),
    ):
        ask(tmp_path, asking(server, max_failures=3, concurrency=1), captions)
    assert not answers_in(tmp_path)


def test_what_is_refused_with_any_picture_is_no_sample_s_failure(tmp_path: Path, captions: Task) -> None:
    with chat_server(refuses) as server, pytest.raises(RunError, match=r"refuses what is to be asked.* argument: seed"):
        ask(tmp_path, asking(server), captions)
    assert not answers_in(tmp_path)


@pytest.mark.parametrize(("status", "said"), [(401, "lets nobody in"), (403, "lets nobody in"), (404, "with /v1?")])
def test_a_closed_door_is_told_at_once(tmp_path: Path, captions: Task, status: int, said: str) -> None:
    with chat_server(lambda index, request: (status, {"detail": "no"})) as server, pytest.raises(RunError, match=said):
        ask(tmp_path, asking(server, concurrency=1), captions)
    assert len(server.requests) == 1


def test_a_picture_that_cannot_be_read_is_told_as_a_local_run_tells_it(tmp_path: Path, captions: Task) -> None:
    protocol, (first, second, *_) = captions
    broken = replace(first, image=str(tmp_path / "gone.png"))
    with chat_server() as server:
        run = ask(tmp_path / "run", asking(server), (protocol, [broken, second]))
    assert run.answers[first.sample_id].error == f"no image at {tmp_path / 'gone.png'}"
    assert len(server.requests) == 1


SECRET = "sk-very-secret-0123456789"


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    tmp_path: Path, data: CocoFolder, captions: Task, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even where a server repeats it in an answer that fails, and not in what is shown of the objects."""
    monkeypatch.setenv(KEY, SECRET)
    protocol = captions[0]

    def behave(index: int, request: dict[str, Any]) -> Any:
        return (400, {"error": {"message": f"wrong key {SECRET}"}}) if index == 2 else says("a dog.")

    with chat_server(behave) as server:
        asked = EndpointAsking.find(Endpoint.of(server.url, concurrency=1), None)
        ask_arms(asked, protocol, data, [Arm("")], tmp_path / "run", processes=Processes())
        score_run(tmp_path / "run")
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"answers.jsonl", "protocol.json", "environment.json"} <= {path.name for path in written}
    for path in written:
        assert SECRET not in path.read_text(errors="replace"), path
    assert "wrong key …" in (tmp_path / "run" / "answers.jsonl").read_text().encode().decode("unicode_escape")
    assert SECRET not in repr(asked)
    monkeypatch.setenv("OTHER", SECRET[::-1])
    assert Endpoint.of(server.url, key_from="OTHER").key == SECRET[::-1]
    with (
        chat_server(lambda index, request: (401, f"no entry for {SECRET}")) as server,
        pytest.raises(RunError) as refusal,
    ):
        ask(tmp_path / "refused", EndpointAsking(Endpoint.of(server.url), "tiny"), captions)
    assert SECRET not in str(refusal.value)
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err


def test_a_key_goes_to_no_other_server(tmp_path: Path, captions: Task) -> None:
    with chat_server() as other:
        elsewhere = {"Location": f"{other.url}/chat/completions"}
        with (
            chat_server(lambda index, request: (307, ""), head=elsewhere) as server,
            pytest.raises(RunError, match="307"),
        ):
            ask(tmp_path, asking(server, endpoint={"key": SECRET}), captions)
    assert other.headers == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8000", "is written http"),
        ("ftp://host/v1", "is written http"),
        ("http://", "is written http"),
        ("http://me:secret@host/v1", "written down"),
        ("http://host/v1?key=secret", "written down"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret(url: str, said: str) -> None:
    with pytest.raises(TaskError, match=said) as refusal:
        Endpoint.of(url)
    assert "secret" not in str(refusal.value)


def test_a_variable_that_is_not_set() -> None:
    with pytest.raises(TaskError, match="no such variable"):
        Endpoint.of("http://host/v1", key_from="NO_SUCH_VARIABLE")


@pytest.mark.parametrize(
    ("models", "name", "found"),
    [(("one",), None, "one"), (("one", "two"), "two", "two"), (None, "two", "two")],
)
def test_which_model_is_asked(models: Any, name: str | None, found: str) -> None:
    with chat_server(models=models) as server:
        assert EndpointAsking.find(Endpoint(server.url), name).model == found


@pytest.mark.parametrize(
    ("models", "name", "said"),
    [
        (("one", "two"), None, "serves one, two: name one"),
        (("one", "two"), "three", "no model 'three', but one, two"),
        (None, None, "lists no models"),
        ((), None, "serves nothing"),
    ],
)
def test_a_model_that_is_not_served(models: Any, name: str | None, said: str) -> None:
    with chat_server(models=models) as server, pytest.raises(TaskError, match=said):
        EndpointAsking.find(Endpoint(server.url), name)


def test_what_a_server_cannot_be_asked_for(tmp_path: Path, captions: Task) -> None:
    protocol, asked = captions
    endpoint = Endpoint("http://127.0.0.1:1/v1")
    for decoding, said in (({"num_beams": 3}, "no beams"), ({"repetition_penalty": 1.2}, "repetition_penalty=1.2")):
        with pytest.raises(TaskError, match=said):
            ask(tmp_path / said[:2], EndpointAsking(endpoint, "tiny"), (replace(protocol, decoding=decoding), asked))
    import torch

    for more, said in (({"end_bias": 1.0}, "cannot be biased"), ({"first_word": (3, 1.0)}, "no first word")):
        with pytest.raises(TaskError, match=said):
            EndpointAsking(endpoint, "tiny", **more)
    profile = HeadProfile(torch.zeros(2, 2))
    with pytest.raises(TaskError, match="a profile cannot be sent"):
        EndpointAsking(endpoint, "tiny", mitigation=Mitigation(profile=profile))


def test_a_server_that_would_ignore_a_mitigation_is_found_out(tmp_path: Path, captions: Task) -> None:
    with chat_server() as server, pytest.raises(RunError, match="knows no mitigations"):
        ask(tmp_path, asking(server, mitigation=Mitigation.parse("vhr:gain=1.5")), captions)
    assert server.requests == []


def test_shards_share_the_work(tmp_path: Path, captions: Task) -> None:
    protocol, asked = captions
    with chat_server(echo) as server:
        for index in range(3):
            with open_run(tmp_path, {}, shard=index, shards=3) as run:
                share = {"processes": Processes(index, 3), "progress": lambda count: None}
                asking(server).answer(protocol, asked, run, **share)
        assert len(server.requests) == 12
    merged = merge_answers(tmp_path, [one.sample_id for one in asked])
    assert {name: one.text for name, one in merged.items()} == {one.sample_id: f"about {one.prompt}" for one in asked}


ASK = """
import sys
from pathlib import Path
from vlm_evals.answer import Processes
from vlm_evals.data.coco import CocoFolder
from vlm_evals.endpoint.address import Endpoint
from vlm_evals.endpoint.asking import EndpointAsking
from vlm_evals.runs import open_run
from vlm_evals.tasks import bind, samples

url, world, out = sys.argv[1:]
data = CocoFolder.find(Path(world))
protocol = bind("coco", "chair", data, limit=None, seed=1, max_new_tokens=4)
with open_run(Path(out), {"protocol": protocol.as_json()}) as run:
    asked = EndpointAsking(Endpoint(url, concurrency=2), "tiny")
    told = {"processes": Processes(), "progress": lambda count: print(count, flush=True)}
    asked.answer(protocol, samples(protocol, data), run, **told)
"""


def test_a_killed_run_goes_on_where_it_stopped(
    tmp_path: Path, data: CocoFolder, captions: Task, small_world: Path
) -> None:
    protocol = captions[0]
    asked = samples(protocol, data)
    going = threading.Event()

    def behave(index: int, request: dict[str, Any]) -> Any:
        if index >= 6:
            going.wait(20)
        return says("yes")

    with chat_server(behave) as server:
        run = [sys.executable, "-c", ASK, server.url, str(small_world), str(tmp_path)]
        with subprocess.Popen(
            run, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        ) as process:
            assert process.stdout is not None
            answered = 0
            while answered < 6:
                answered += int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            process.stdout.read()
        going.set()
        before = answers_in(tmp_path)
        assert len(before) == 6
        count = len(server.requests)
        with open_run(tmp_path, {"protocol": protocol.as_json()}) as run_again:
            asking(server).answer(protocol, asked, run_again, processes=Processes(), progress=lambda count: None)
        assert len(server.requests) == count + 6
    assert {name: run_again.answers[name] for name in before} == before
    assert len(run_again.answers) == 12
