"""`vlm-heads askback` through a server: what a model loaded here would leave out is left out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vlm_app.serving.question import Rules

from tests.support.chat_server import chat_server, says
from tests.support.command import Command, Mistake
from tests.support.finders import needs_coco
from tests.support.serving import Serving, serving
from vlm_heads import VLM, AskBack
from vlm_heads.errors import BadOption

SAID = "There is a giraffe, a dog and a cup. It is nice."

pytestmark = needs_coco


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    with serving(VLM.from_pretrained("mini"), rules=Rules("mini")) as found:
        yield found


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "captions.jsonl"
    texts = (SAID, "It is nice.", "A dog sits beside a chair.")
    rows = [{"image_id": number, "caption": text} for number, text in enumerate(texts, 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_server_leaves_out_what_the_model_here_leaves_out(
    command: Command, captions: Path, small_world: Path, tmp_path: Path, served: Serving
) -> None:
    rows = []
    for name, more in (("here", ()), ("there", ("--endpoint", f"{served.url}/v1"))):
        words = ("askback", captions, "--images", small_world, "--with", "askback:margin=1")
        told = command(*words, "--out", tmp_path / name, "--json", *more)
        assert told.code == 0, told.err
        assert told.value["captions"] == 3
        rows.append([json.loads(line) for line in (tmp_path / name).read_text().splitlines()])
    here, there = rows
    assert [row["caption"] for row in here] == [row["caption"] for row in there]
    assert any(row["caption"] != row["before"] for row in there)
    for one, other in zip(here, there, strict=True):
        assert [(each["object"], each["fate"]) for each in one["asked"]] == [
            (each["object"], each["fate"]) for each in other["asked"]
        ]
        assert [each["margin"] for each in one["asked"]] == pytest.approx(
            [each["margin"] for each in other["asked"]], abs=1e-3
        )


def _answers(yes: float, no: float) -> Any:
    listed = [{"token": "Yes", "logprob": yes}, {"token": "No", "logprob": no}]
    status, body = says("Yes")
    body["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "logprob": yes, "top_logprobs": listed}]}
    return status, body


def test_each_object_is_asked_about_once(command: Command, captions: Path, small_world: Path, tmp_path: Path) -> None:
    """The double knows no giraffe: log-probability -3 for yes, -0.1 for no, margin -2.9."""
    asked = []

    def behave(index: int, request: dict[str, Any]) -> Any:
        asked.append(request["messages"][0]["content"][1]["text"])
        return _answers(-3.0, -0.1) if "giraffe" in asked[-1] else _answers(-0.1, -3.0)

    with chat_server(behave, trying=False) as server:
        out = tmp_path / "out.jsonl"
        told = command("askback", captions, "--images", small_world, "--out", out, "--endpoint", server.url, "--json")
    assert told.code == 0, told.err
    first, second, third = (json.loads(line) for line in out.read_text().splitlines())
    assert first["caption"] == "There is a dog and a cup. It is nice."
    assert [one["margin"] for one in first["asked"]] == pytest.approx([-2.9, 2.9, 2.9])
    assert (second["caption"], second["asked"]) == ("It is nice.", [])
    assert third["caption"] == third["before"]
    assert sorted(asked) == sorted(
        f"Is there a {name} in the image?" for name in ("giraffe", "dog", "cup", "dog", "chair")
    )


def test_mistakes_are_one_line(captions: Path, small_world: Path, tmp_path: Path, mistake: Mistake) -> None:
    def said(*words: object) -> str:
        return mistake("askback", captions, "--images", small_world, "--out", tmp_path / "out", *words)

    with chat_server(trying=False) as server:
        assert "gives no log-probabilities" in said("--endpoint", server.url)
        assert "leave by, calibrated and control out" in said("--endpoint", server.url, "--with", "askback:by=both")
        assert "knows no mitigations" in said("--endpoint", server.url, "--with", "vhr:gain=1.5")
    assert not (tmp_path / "out").exists()


def test_the_text_half_needs_no_model() -> None:
    check = AskBack()
    assert check.questions(SAID) == {
        "giraffe": ("giraffe", "Is there a giraffe in the image?"),
        "dog": ("dog", "Is there a dog in the image?"),
        "cup": ("cup", "Is there a cup in the image?"),
    }
    assert check.without(SAID, {"giraffe"}) == "There is a dog and a cup. It is nice."
    assert check.without(SAID, ()) == SAID
    with pytest.raises(BadOption, match="names no object"):
        AskBack(question="Is it there?").questions(SAID)
