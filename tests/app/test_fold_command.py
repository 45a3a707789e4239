"""`vlm-heads fold`: the folded `mini` says what the attached profile says, and what cannot be folded is one line."""

import json
from pathlib import Path

import pytest
import torch
from vlm_app.bridges.folding import verify_folded
from vlm_evals.scenes.samples import sample_path

from tests.support.command import Command, Mistake
from vlm_heads import VLM, HeadProfile, StaticGains
from vlm_heads.errors import UnsupportedModel


def _profile(seed: int = 0) -> HeadProfile:
    gains = 0.5 + torch.rand(8, 8, generator=torch.Generator().manual_seed(seed))
    return HeadProfile(torch.zeros(8, 8), gains=gains, model_type="llava")


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    _profile().save_pretrained(tmp_path / "profile")
    return tmp_path / "profile"


def test_the_folded_mini_says_what_the_attached_profile_says(command: Command, profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "folded"
    outcome = command("fold", "mini", "--profile", profile, "--out", out, "--verify", "--json")
    assert outcome.code == 0
    verified = outcome.value["verified"]
    assert verified["prompts"] == verified["identical"] == 6
    assert verified["difference"] < 1e-4 * verified["effect"]
    folded, mini = VLM.from_pretrained(out), VLM.from_pretrained("mini")
    for name in ("beach", "office"):
        attached = mini.answer(sample_path(name), interventions=[StaticGains()], profile=_profile())
        assert folded.answer(sample_path(name)).token_ids == attached.token_ids
    assert mini.answer(sample_path("beach")).token_ids != folded.answer(sample_path("beach")).token_ids


def test_another_profile_would_be_seen(command: Command, profile: Path, tmp_path: Path) -> None:
    assert command("fold", "mini", "--profile", profile, "--out", tmp_path / "folded").code == 0
    with pytest.raises(UnsupportedModel, match="nothing was written"):
        verify_folded(
            VLM.from_pretrained("mini"), _profile(seed=1), tmp_path / "folded", [sample_path("park")], tokens=2
        )


def test_it_says_what_it_did(command: Command, profile: Path, tmp_path: Path) -> None:
    outcome = command("fold", "mini", "--profile", profile, "--out", tmp_path / "folded")
    assert "8 output projections scaled (each weight was rounded once" in outcome.out
    assert "not verified" in outcome.out
    assert outcome.err == ""


def test_a_profile_of_another_model_is_remarked(command: Command, tmp_path: Path) -> None:
    one = _profile()
    HeadProfile(one.scores, gains=one.gains, card={"model": "owner/other"}).save_pretrained(tmp_path / "profile")
    outcome = command("fold", "mini", "--profile", tmp_path / "profile", "--out", tmp_path / "folded")
    assert outcome.code == 0
    assert "owner/other" in outcome.err


def test_mistakes_are_one_line(mistake: Mistake, command: Command, profile: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    HeadProfile(torch.zeros(8, 8)).save_pretrained(tmp_path / "scores")
    HeadProfile(torch.zeros(3, 4), gains=torch.full((3, 4), 2.0)).save_pretrained(tmp_path / "other")
    assert "no gains" in mistake("fold", "mini", "--profile", tmp_path / "scores", "--out", out)
    assert "3 layers of 4 heads" in mistake("fold", "mini", "--profile", tmp_path / "other", "--out", out)
    assert "no head profile" in mistake("fold", "mini", "--profile", tmp_path / "gone", "--out", out)
    assert "did you mean 'mini'" in mistake("fold", "minni", "--profile", profile, "--out", out)
    assert "no checkpoint" in mistake("fold", "planted", "--profile", profile, "--out", out)
    assert "there already" in mistake("fold", "mini", "--profile", profile, "--out", profile)
    assert "--profile" in mistake("fold", "mini", "--out", out)
    assert command("fold", "mini", "--profile", profile, "--out", out).code == 0
    assert "already" in mistake("fold", out, "--profile", profile, "--out", tmp_path / "twice")
    assert json.loads((out / "config.json").read_text())["vlm_heads_fold"]["heads"] == 64
    assert not (tmp_path / "twice").exists()
