"""`vlm-heads calibrate` through a server: it chooses and measures what it would with the model here."""

from pathlib import Path

import pytest
from vlm_app.serving.question import Rules

from tests.support.command import Command, Mistake
from tests.support.compare import equal
from tests.support.serving import serving
from vlm_heads import VLM, HeadProfile

SMALL = ("--samples", 4, "--trials", 2, "--captions", 3, "--questioned", 2, "--max-tokens", 3, "--even-if-useless")


@pytest.mark.usefixtures("nltk_data")
def test_a_server_gives_the_same_profile_and_card(
    command: Command, untrained_mini: Path, talkative: VLM, small_world: Path, tmp_path: Path
) -> None:
    words = ("calibrate", untrained_mini, "--data", small_world, *SMALL, "--json")
    here = command(*words, "--out", tmp_path / "here")
    assert here.code == 0, here.err
    with serving(talkative, rules=Rules("tiny")) as found:
        there = command(*words, "--out", tmp_path / "there", "--endpoint", f"{found.url}/v1")
    assert there.code == 0, there.err
    told = ("search", "measured", "verdict", "setting", "weights", "reason", "protocols")
    assert {name: there.value[name] for name in told} == {name: here.value[name] for name in told}
    one, other = (HeadProfile.from_pretrained(tmp_path / name) for name in ("here", "there"))
    assert equal(one.gains, other.gains)


def test_a_server_of_other_weights_is_refused(
    mistake: Mistake, untrained_mini: Path, planted: VLM, small_world: Path, tmp_path: Path
) -> None:
    with serving(planted) as found:
        words = ("calibrate", untrained_mini, "--data", small_world, *SMALL, "--out", tmp_path / "out")
        assert "does not serve the weights" in mistake(*words, "--endpoint", f"{found.url}/v1")
    assert not (tmp_path / "out").exists()
