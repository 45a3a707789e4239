"""The server as OpenAI's own client sees it."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from vlm_app.serving.question import Rules
from vlm_app.serving.server import Guard
from vlm_evals.answer import fingerprint
from vlm_evals.scenes.samples import sample_path

from tests.support.serving import DESCRIBE, Serving, data_url, serving, user
from vlm_heads import VLM, Mitigation
from vlm_heads.models import Conversation, Turn, image_with_sinks, planted_image

openai = pytest.importorskip("openai", reason="the official client is not installed")

KITCHEN = sample_path("kitchen")
COLOURS = ("car", "broccoli", "banana", "bird")


@pytest.fixture(scope="module")
def mini() -> VLM:
    return VLM.from_pretrained("mini")


@pytest.fixture(scope="module")
def served(mini: VLM) -> Iterator[Serving]:
    with serving(mini, rules=Rules("mini", most_tokens=300)) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: Serving) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def ask(client: Any, *messages: dict[str, Any], model: str = "mini", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=list(messages) or [user(KITCHEN)], **more)


def test_an_answer_is_the_library_s(client: Any, mini: VLM) -> None:
    found = ask(client)
    expected = mini.answer(KITCHEN)
    assert found.choices[0].message.content == expected.text
    assert found.choices[0].finish_reason == "stop"
    counted = (expected.prompt_tokens, len(expected.token_ids))
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == counted
    assert found.usage.total_tokens == sum(counted)
    assert (found.object, found.model, found.mitigation, found.receipt) == ("chat.completion", "mini", "", None)
    assert found.system_fingerprint == fingerprint(mini.model)


def test_a_mitigation_for_one_request_and_its_receipt(client: Any, mini: VLM) -> None:
    words = "vhr:gain=1.5 vcd"
    found = ask(client, extra_body={"mitigation": words})
    expected = mini.answer(KITCHEN, interventions=words)
    assert found.choices[0].message.content == expected.text != ask(client).choices[0].message.content
    assert found.mitigation == words
    assert found.receipt == expected.receipt


def test_a_mitigation_for_the_whole_server_and_none_for_one_request(mini: VLM) -> None:
    rules = Rules("mini", Mitigation.parse("vhr:gain=1.5"))
    with serving(mini, rules=rules) as found, openai.OpenAI(base_url=f"{found.url}/v1", api_key="none") as client:
        mitigated, plain = ask(client), ask(client, extra_body={"mitigation": ""})
        assert client.models.list().data[0].mitigation == "vhr:gain=1.5"
    assert mitigated.choices[0].message.content == mini.answer(KITCHEN, interventions="vhr:gain=1.5").text
    assert plain.choices[0].message.content == mini.answer(KITCHEN).text
    assert mitigated.receipt["interventions"][0]["options"]["gain"] == 1.5


def test_a_stream_says_the_same_in_pieces(client: Any) -> None:
    whole = ask(client, extra_body={"mitigation": "vhr"})
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, extra_body={"mitigation": "vhr"}))
    *pieces, last, counted = chunks
    assert "".join(one.choices[0].delta.content for one in pieces) == whole.choices[0].message.content
    assert len(pieces) > 10
    assert (last.choices[0].finish_reason, last.receipt) == ("stop", whole.receipt)
    assert counted.choices == []
    assert counted.usage == whole.usage


def test_several_turns(client: Any, mini: VLM) -> None:
    turns = [user(KITCHEN), {"role": "assistant", "content": "A kitchen."}, {"role": "user", "content": "Any clock?"}]
    talk = Conversation((Turn("user", DESCRIBE, True), Turn("assistant", "A kitchen."), Turn("user", "Any clock?")))
    assert ask(client, *turns).choices[0].message.content == mini.answer(KITCHEN, talk).text


def test_limits_stops_and_seeds(client: Any, mini: VLM) -> None:
    short = ask(client, max_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    assert ask(client, max_completion_tokens=3).choices[0].message.content == short.choices[0].message.content
    stopped = ask(client, stop=[" two", "clock"]).choices[0]
    assert stopped.message.content == mini.answer(KITCHEN).text.partition(" two")[0]
    drawn = [ask(client, temperature=1.5, top_p=0.9, seed=seed).choices[0].message.content for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_bias_on_the_end_makes_answers_shorter_and_longer(client: Any, mini: VLM) -> None:
    ends = client.models.retrieve("mini").end_tokens
    assert ends == [mini.model.generation_config.eos_token_id]
    lengths = []
    for bias in (4.0, 0.0, -4.0):
        found = ask(client, logit_bias={str(ends[0]): bias})
        expected = mini.answer(KITCHEN, sequence_bias=[[ends, bias]]) if bias else mini.answer(KITCHEN)
        assert found.choices[0].message.content == expected.text
        lengths.append(found.usage.completion_tokens)
    assert lengths[0] < lengths[1] < lengths[2]


def test_log_probabilities(client: Any) -> None:
    (choice,) = ask(client, user(KITCHEN, "Is there a clock in the image?"), logprobs=True, top_logprobs=2).choices
    said = choice.logprobs.content
    assert "".join(one.token for one in said) == choice.message.content
    assert {one.token for one in said[0].top_logprobs} == {"Yes", "No"}
    assert said[0].logprob == said[0].top_logprobs[0].logprob <= 0
    chunks = list(ask(client, user(KITCHEN, "Is there a clock in the image?"), logprobs=True, stream=True))
    assert [one.logprob for one in chunks[-1].choices[0].logprobs.content] == [one.logprob for one in said]


def test_which_models_are_served(client: Any, mini: VLM) -> None:
    (one,) = client.models.list().data
    assert (one.id, one.weights) == ("mini", fingerprint(mini.model))
    assert client.models.retrieve("mini") == one
    with pytest.raises(openai.NotFoundError, match="no model 'maxi' is served here, but 'mini'"):
        client.models.retrieve("maxi")


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"model": "maxi"}, 404, "no model 'maxi'"),
        ({"n": 2}, 400, "n: Input should be 1"),
        ({"temperature": -1}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 301}, 400, "more than the 300 tokens"),
        ({"stop": [""]}, 400, "stops nothing"),
        ({"stop": ["x"] * 17}, 400, "stop"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"logit_bias": {"5": 101}}, 400, "logit_bias"),
        ({"logit_bias": {"five": 1}}, 400, "is no token id"),
        ({"logit_bias": {"100000000": 1}}, 400, "the model has no token 100000000"),
        ({"logit_bias": {"5": 1}, "extra_body": {"mitigation": "askback"}}, 400, "leave one out"),
        ({"top_logprobs": 3}, 400, "needs logprobs"),
        ({"logprobs": True, "extra_body": {"mitigation": "vcd"}}, 400, "leave one of them out"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools: is not known here"),
        ({"extra_body": {"mitigation": "vrh"}}, 400, "did you mean 'vhr'"),
        ({"extra_body": {"mitigation": "vhr:gain=-1"}}, 400, "at least 0"),
        ({"extra_body": {"mitigation": "vhr:layers=99"}}, 400, "99"),
        ({"extra_body": {"mitigation": "allpath:format_list=constraints.txt"}}, 403, "may name no file"),
        ({"extra_body": {"mitigation": "allpath:image_list=constraints.txt"}}, 403, "may name no file"),
        ({"extra_body": {"beam_width": 4}}, 400, "beam_width: is not known here"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(client: Any, more: dict[str, Any], status: int, said: str) -> None:
    with pytest.raises(openai.APIStatusError, match=said) as refusal:
        ask(client, **more)
    assert refusal.value.status_code == status
    assert "\n" not in refusal.value.message
    assert "constraints" not in refusal.value.message


def test_a_refusal_comes_before_a_stream_begins(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="no image that Pillow can read"):
        ask(client, user(b"no picture"), stream=True)
    with pytest.raises(openai.BadRequestError, match="image token"):
        ask(client, user(KITCHEN, "what is <image>?"), stream=True)


def test_sixty_four_clients_at_once(planted: VLM) -> None:
    """Each asks about a picture of its own, plain or mitigated, whole or in pieces, and gets its own answer."""

    async def one(client: Any, index: int) -> str:
        picture, words = planted_image(COLOURS[index % 4]), ["", "vhr:gain=2", "vhr:gain=3"][index % 3]
        more = {"extra_body": {"mitigation": words}, "max_tokens": 8}
        if index % 2:
            whole = await ask(client, user(picture), model="planted", **more)
            return str(whole.choices[0].message.content)
        stream = await ask(client, user(picture), model="planted", stream=True, **more)
        return "".join([piece.choices[0].delta.content or "" async for piece in stream])

    async def everybody(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, index) for index in range(64)))

    with serving(planted) as found:
        said = asyncio.run(everybody(found.url))
        counted = found.worker.counts.exposition({})
    expected = {
        (colour, words): planted.answer(planted_image(colour), interventions=words, max_new_tokens=8).text
        for colour in COLOURS
        for words in ("", "vhr:gain=2", "vhr:gain=3")
    }
    wanted = [expected[COLOURS[index % 4], ["", "vhr:gain=2", "vhr:gain=3"][index % 3]] for index in range(64)]
    assert said == wanted
    assert len(set(wanted)) > 2
    assert 'vlm_heads_requests_total{status="200"} 64\n' in counted
    assert int(re.findall(r"\nvlm_heads_batches_total (\d+)", counted)[0]) < 64


def test_a_checked_answer_streams_sentence_by_sentence(client: Any, mini: VLM) -> None:
    *pieces, last = ask(client, stream=True, extra_body={"mitigation": "askback"})
    said = [one.choices[0].delta.content for one in pieces if one.choices[0].delta.content]
    assert "".join(said) == "".join(mini.stream(KITCHEN, interventions="askback")).strip()
    assert last.receipt["check"]["asked"]


def test_a_key_is_asked_for_where_there_is_one(planted: VLM) -> None:
    with serving(planted, guard=Guard("s3cret")) as found:
        address = f"{found.url}/v1"
        with openai.OpenAI(base_url=address, api_key="s3cret") as client:
            assert ask(client, user(planted_image("car")), model="planted", max_tokens=2).choices
        for key in ("wrong", "s3cre", "s3crett"):
            with openai.OpenAI(base_url=address, api_key=key) as client, pytest.raises(openai.AuthenticationError):
                client.models.list()


def test_a_picture_with_sinks_and_an_unusual_one(client: Any) -> None:
    assert ask(client, user(image_with_sinks("car")), max_tokens=4).choices
    assert ask(client, user(Image.new("LA", (20, 20))), max_tokens=4).choices
    url = data_url(KITCHEN).replace("image/png", "image/jpeg")  # what it says it is does not count
    assert ask(client, user(url), max_tokens=4).choices
