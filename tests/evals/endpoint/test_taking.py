"""What a server refuses or breaks off: a sample's error where others are answered, and no answer in any case."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlm_evals.answer import Processes
from vlm_evals.data.coco import CocoFolder
from vlm_evals.endpoint.address import Endpoint
from vlm_evals.endpoint.asking import EndpointAsking
from vlm_evals.errors import RunError, TaskError
from vlm_evals.protocol import Protocol
from vlm_evals.records import Sample
from vlm_evals.runs import Run, answers_in, open_run
from vlm_evals.tasks import bind, samples

from tests.support.chat_server import chat_server, says

Behaviour = Callable[[int, dict[str, Any]], Any]
TOKENS = 4
TOO_LONG = "max_tokens=4 cannot be greater than max_model_len=2"


@pytest.fixture(scope="module")
def captions(small_world: Path) -> tuple[Protocol, list[Sample]]:
    data = CocoFolder.find(small_world)
    protocol = bind("coco", "chair", data, limit=None, seed=1, max_new_tokens=TOKENS)
    return protocol, samples(protocol, data)


@pytest.fixture
def ask(captions: tuple[Protocol, list[Sample]], tmp_path: Path) -> Callable[..., Run]:
    """Ask a double, one request after the other, into the same run every time."""
    protocol, everything = captions

    def run(behave: Behaviour, max_failures: int = 20) -> Run:
        with (
            chat_server(behave) as server,
            open_run(tmp_path, {"protocol": protocol.as_json()}, where=server.url) as found,
        ):
            asked = EndpointAsking(Endpoint(server.url, concurrency=1, pause=0.01), "tiny", max_failures=max_failures)
            asked.answer(protocol, everything, found, processes=Processes(), progress=lambda count: None)
        return found

    return run


def refusing(count: int) -> Behaviour:
    """Refuse the first requests and answer the others."""

    def behave(index: int, request: dict[str, Any]) -> Any:
        return (400, {"error": {"message": TOO_LONG}}) if index < count else says("a dog.")

    return behave


def ending(reason: str, tokens: int | None) -> Behaviour:
    """End the third answer for a reason, after so many tokens; all others as usual."""

    def behave(index: int, request: dict[str, Any]) -> Any:
        status, body = says("a dog.")
        if index == 2:
            body["choices"][0]["finish_reason"] = reason
            body["usage"]["completion_tokens"] = tokens
        return status, body

    return behave


def test_a_server_that_refuses_everything_ends_the_run_and_leaves_nothing(
    ask: Callable[..., Run], tmp_path: Path
) -> None:
    """A try for one token passes where the context is too short for an answer; each sample is refused then."""
    with pytest.raises(RunError, match=f"answered nothing and refused 12 requests; .* sample .*{TOO_LONG}"):
        ask(refusing(12))
    assert not answers_in(tmp_path)
    assert {one.text for one in ask(refusing(0)).answers.values()} == {"a dog."}  # a longer context, the same run


def test_it_is_given_up_early(ask: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="answered nothing and refused 4 requests"):
        ask(refusing(12), max_failures=3)
    assert not answers_in(tmp_path)


def test_refusals_before_the_first_answer_are_kept_with_it(ask: Callable[..., Run], tmp_path: Path) -> None:
    run = ask(refusing(3))
    assert [one.error is None for one in run.answers.values()] == [True] + [False] * 3 + [True] * 8
    assert answers_in(tmp_path) == run.answers


def test_a_refusal_after_an_earlier_start_s_answers_is_its_sample_s(ask: Callable[..., Run], tmp_path: Path) -> None:
    def dies(index: int, request: dict[str, Any]) -> Any:
        return says("a dog.") if index < 11 else (503, "going down")

    with pytest.raises(RunError, match="goes on where it stopped"):
        ask(dies)
    assert sum(one.error is not None for one in ask(refusing(1)).answers.values()) == 1


@pytest.mark.parametrize(
    ("reason", "tokens", "said"),
    [
        ("length", 3, "cut its answer after 3 tokens, where it may have 4: its context is too short"),
        ("abort", 3, "broke its answer off: finish_reason 'abort'"),
        ("content_filter", None, "broke its answer off"),
        ("length", 4, None),
        ("length", None, None),
        ("stop", 3, None),
        ("", 3, None),
    ],
)
def test_a_part_of_an_answer_is_none(
    ask: Callable[..., Run], reason: str, tokens: int | None, said: str | None
) -> None:
    third = list(ask(ending(reason, tokens)).answers.values())[2]
    assert third.text == ("a dog." if said is None else "")
    assert (third.error is None) if said is None else (said in (third.error or ""))


def test_an_address_without_v1_is_doubted() -> None:
    with chat_server(models=None) as server:
        bare = server.url.removesuffix("/v1")
        with pytest.raises(TaskError, match=f"lists no models: is it {server.url}\\?"):
            EndpointAsking.find(Endpoint(bare), None)
