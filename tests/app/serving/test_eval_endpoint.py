"""Asking our own server gives what asking the model here gives."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vlm_app.serving.question import Rules

from tests.support.chat_server import chat_server
from tests.support.command import Command, Mistake
from tests.support.reports import unlike
from tests.support.serving import Serving, serving
from vlm_heads import VLM


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    with serving(VLM.from_pretrained("mini"), rules=Rules("mini")) as found:
        yield found


@pytest.fixture
def both(tmp_path: Path, served: Serving, small_world: Path, command: Command) -> Any:
    """Run `eval` here and through the endpoint with the same words; return both reports and folders."""

    def run(*words: object) -> list[tuple[dict[str, Any], Path]]:
        found = []
        for name, more in (("here", ()), ("there", ("--endpoint", f"{served.url}/v1", "--concurrency", 8))):
            outcome = command("eval", *words, "--data", small_world, "--json", "--out", tmp_path / name, *more)
            assert outcome.code == 0, outcome.err
            found.append((outcome.value, tmp_path / name))
        return found

    return run


WHO = {"settings.asked"}  # a report says that a server was asked
PAIRED = {
    "settings.compared_with.asked",
    "harm",
}  # of two runs; harm is read from a model's logits, not through a server


@pytest.mark.parametrize(
    "words",
    [
        ("chair", "--limit", 6, "--max-tokens", 40),
        ("chair", "--limit", 4, "--max-tokens", 24, "--temperature", 1.0, "--with", "vhr:gain=1.5"),
        ("pope", "--limit", 2, "--with", "vcd"),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_a_run_through_the_server_gives_the_same_report(both: Any, words: tuple[object, ...]) -> None:
    (here, one), (there, other) = both(*words)
    assert unlike(here, there) == WHO
    rows = [
        [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()] for folder in (one, other)
    ]
    assert [(row["sample_id"], row["text"]) for row in rows[0]] == [(row["sample_id"], row["text"]) for row in rows[1]]
    assert [len(row["token_ids"]) for row in rows[0]] == [row["usage"]["completion_tokens"] for row in rows[1]]


def test_a_paired_run_with_controls_and_a_comparison_across(
    both: Any, tmp_path: Path, command: Command, served: Serving
) -> None:
    words = ("pope", "--limit", 2, "--with", "vhr:gain=1.5", "--paired")
    (here, one), (there, other) = both(*words)
    assert "output" in str(here["controls"])  # made of margins, which the server tells as log-probabilities
    assert unlike(here, there) == {*WHO, *PAIRED}
    assert "output-fixed" in here["controls"]  # made of the probability of either word
    across = command("compare", one / "plain", other / "mitigated", "--json").value
    assert unlike(across["difference"], here["difference"]) == set()
    assert across["settings"]["asked"] == "chat completions"


def test_controls_that_a_server_can_be_asked_for(
    tmp_path: Path, served: Serving, small_world: Path, command: Command
) -> None:
    words = ("chair", "--limit", 2, "--max-tokens", 8, "--with", "vhr:gain=1.5", "--controls", "--data", small_world)
    outcome = command("eval", *words, "--endpoint", f"{served.url}/v1", "--json", "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "left out, for a server biases no first word" in outcome.err
    folders = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert folders == {"plain", "mitigated", "bottom-heads", "random-heads"}


def test_the_plain_model_s_curve(both: Any) -> None:
    (here, _), (there, _) = both("chair", "--limit", 2, "--max-tokens", 12, "--with", "vhr:gain=1.5", "--curve")
    assert "curve" in here
    assert unlike(here, there) == {*WHO, *PAIRED}


def test_a_run_goes_on_at_another_address(
    tmp_path: Path, served: Serving, small_world: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "eval",
        "chair",
        "--limit",
        4,
        "--max-tokens",
        8,
        "--data",
        small_world,
        "--json",
        "--out",
        tmp_path / "run",
    )
    whole = command(*words, "--endpoint", f"{served.url}/v1").value
    lines = (tmp_path / "run" / "answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "answers.jsonl").write_text("".join(lines[:2]))
    shutil.rmtree(tmp_path / "run" / "captions", ignore_errors=True)
    elsewhere = served.url.replace("127.0.0.1", "localhost")
    assert command(*words, "--endpoint", f"{elsewhere}/v1/").value == whole
    kept = (tmp_path / "run" / "answers.jsonl").read_text().splitlines(keepends=True)
    assert kept[:2] == lines[:2]


def test_what_asking_costs_is_counted(served: Serving, command: Command) -> None:
    words = ("bench", "client", "--endpoint", f"{served.url}/v1", "--requests", 6, "--concurrency", 3)
    found = command(*words, "--json").value
    assert (found["requests"], found["concurrency"]) == (6, 3)
    assert found["processor_ms"] / 1000 * 6 > 0
    assert 0 < found["median_ms"] <= found["slowest_ms"] <= 1000 * found["seconds"]


def test_mistakes_are_one_line(tmp_path: Path, small_world: Path, mistake: Mistake) -> None:
    def said(*words: object) -> str:
        out = tmp_path / str(len(list(tmp_path.iterdir())))  # each begins anew
        return mistake("eval", "chair", "--limit", 2, "--data", small_world, "--out", out, *words)

    assert "is written http" in said("--endpoint", "localhost")
    assert "--served-model" in said("--endpoint", "http://127.0.0.1:9/v1", "--model", "planted")
    assert "name it with --endpoint" in said("--served-model", "x")
    assert "no such variable" in said("--endpoint", "http://127.0.0.1:9/v1", "--key-from", "NO_SUCH")
    with chat_server() as server:
        assert "no beams" in said("--endpoint", server.url, "--beams", 3)
        assert "leave --curve out" in said("--endpoint", server.url, "--curve", "--with", "vhr")
        assert "knows no mitigations" in said("--endpoint", server.url, "--with", "vhr:gain=1.5")
        assert "no model 'x'" in said("--endpoint", server.url, "--served-model", "x")
    assert not [path for path in tmp_path.glob("*/answers*") if path.stat().st_size]
