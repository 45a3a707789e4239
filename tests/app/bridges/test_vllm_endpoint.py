"""Asking vLLM's server gives what asking the same checkpoint here gives: `make test-serving`; elsewhere skipped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ask_engine import VLLM_PYTHON, no_vllm, vllm_server
from tests.support.command import Command, Mistake
from tests.support.finders import needs_coco
from tests.support.reports import unlike
from tests.support.wide_heads import widened
from vlm_heads.models.loading import checkpoint_folder

pytestmark = [pytest.mark.skipif(not VLLM_PYTHON, reason=no_vllm), needs_coco]
WHO = {"settings.asked", "settings.weights"}  # vLLM tells no hash of its weights
ROUNDED = 2e-3  # of a margin in float32, where the last layer's sums are ordered otherwise


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mini` with heads that vLLM takes on a CPU."""
    return widened(checkpoint_folder("mini"), tmp_path_factory.mktemp("served") / "wide")


@pytest.fixture(scope="module")
def url(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_server(wide, tmp_path_factory.mktemp("log") / "vllm.log") as found:
        yield found


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("words", [("chair", "--max-tokens", 96), ("pope", "--limit", 4)], ids=["chair", "pope"])
def test_a_run_through_vllm_gives_the_same_report(
    words: tuple[object, ...], wide: Path, url: str, small_world: Path, tmp_path: Path, command: Command
) -> None:
    reports, answers = [], []
    for name, more in (("here", ("--model", wide)), ("there", ("--endpoint", url))):
        found = command("eval", *words, "--data", small_world, "--json", "--out", tmp_path / name, *more)
        assert found.code == 0, found.err
        reports.append(found.value)
        answers.append(rows(tmp_path / name / "answers.jsonl"))
    assert unlike(*reports) == WHO
    here, there = answers
    assert [(one["sample_id"], one["text"], len(one["token_ids"])) for one in here] == [
        (one["sample_id"], one["text"], one["usage"]["completion_tokens"]) for one in there
    ]
    if words[0] == "pope":
        assert [one["margin"] for one in there] == pytest.approx([one["margin"] for one in here], abs=ROUNDED)


def test_askback_leaves_out_what_it_leaves_out_here(
    wide: Path, url: str, small_world: Path, tmp_path: Path, command: Command
) -> None:
    captions = tmp_path / "captions.jsonl"
    said = ("There is a giraffe, a dog and a cup. It is nice.", "It is nice.", "A dog sits beside a chair.")
    captions.write_text(
        "".join(json.dumps({"image_id": number, "caption": text}) + "\n" for number, text in enumerate(said, 1))
    )
    found = []
    for name, more in (("here", ("--model", wide)), ("there", ("--endpoint", url))):
        told = command("askback", captions, "--images", small_world, "--json", "--out", tmp_path / name, *more)
        assert told.code == 0, told.err
        found.append(rows(tmp_path / name))
    here, there = found
    assert [row["caption"] for row in here] == [row["caption"] for row in there]
    assert any(row["caption"] != row["before"] for row in there)
    margins = [[one["margin"] for row in each for one in row["asked"]] for each in found]
    assert margins[1] == pytest.approx(margins[0], abs=ROUNDED)


def test_what_vllm_cannot_do_is_one_line(url: str, small_world: Path, tmp_path: Path, mistake: Mistake) -> None:
    def said(out: str, *words: object) -> str:
        asked = ("eval", "chair", "--limit", 2, "--data", small_world, "--endpoint", url)
        return mistake(*asked, "--out", tmp_path / out, *words)

    assert "knows no mitigations" in said("one", "--with", "vhr:gain=1.5")
    assert "answered nothing and refused 2 requests" in said("other", "--max-tokens", 600)  # its context holds 256
