"""`vlm-heads score`: one scorer, several that are compared, and what is refused."""

from pathlib import Path

import pytest
from PIL import Image

from tests.support.command import Command, Mistake
from vlm_heads import HeadProfile
from vlm_heads.profiles import read_ranking, scores_of

PICTURES = ("--pictures", 4)


@pytest.mark.parametrize("scorer", ["image-mass", "negative", "allpath-image"])
def test_any_scorer_writes_a_profile_a_list_and_a_map(scorer: str, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "profile"
    found = command("score", "--scorer", scorer, "--about", "questions", *PICTURES, "--out", out, "--json").value
    assert (found["scorer"], found["images"], len(found["scores"])) == (scorer, 8, 8)
    assert found["top"][0]["score"] == max(max(row) for row in found["scores"])
    assert -1 <= found["stability"]["all"] <= 1
    profile = HeadProfile.from_pretrained(out)
    assert profile.card["scorer"] == scorer
    assert profile.scores.tolist() == found["scores"]
    assert scores_of(read_ranking(out / "heads.jsonl")).tolist() == found["scores"]
    with Image.open(out / "heads.png") as picture:
        assert min(picture.size) > 100


@pytest.mark.usefixtures("nltk_data")
def test_several_scorers_are_compared(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "scorers"
    words = ("vhd", "image-mass", "allpath-image", 'copy:text="there is a dog",said=given')
    asked = ("score", *(part for word in words for part in ("--scorer", word)), *PICTURES, "--out", out)
    found = command(*asked, "--json").value
    pairs = [tuple(row["scorers"]) for row in found["agreement"]]
    assert len(pairs) == len(set(pairs)) == 6
    assert set(found["stability"]) == set(words)
    mass = next(row for row in found["agreement"] if row["scorers"] == ["vhd", "image-mass"])
    assert mass["all"] > 0.4
    assert found["stability"]["vhd"]["within_layers"] > 0.6
    assert HeadProfile.from_pretrained(out / "allpath-image").card["scorer"] == "allpath-image"
    with Image.open(out / "agreement.png") as picture:
        assert picture.size[0] > picture.size[1]
    told = command(*asked)
    assert "all heads" in told.out
    assert "within layers" in told.out
    assert f"{mass['all']:.2f}" in told.out


def test_a_list_is_what_allpath_takes(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "profile"
    command("score", "--scorer", "allpath-format", "--about", "questions", *PICTURES, "--out", out)
    words = f"allpath:format_list={out / 'heads.jsonl'},worst=3,best=3"
    listed = command("describe", "sample:kitchen", "--with", words, "--json")
    assert listed.code == 0, listed.err
    profiled = command("describe", "sample:kitchen", "--with", "allpath:worst=3,best=3", "--profile", out, "--json")
    assert profiled.value[0]["token_ids"] == listed.value[0]["token_ids"]


def test_what_cannot_be_scored_is_told_in_a_line(mistake: Mistake, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "profile")
    assert "did you mean 'ablation'" in mistake("score", "--scorer", "ablaton", *out)
    assert "negative has to know what pictures show" in mistake("score", "sample:kitchen", "--scorer", "negative", *out)
    assert "choose one of the two" in mistake("score", "sample:kitchen", "--data", tmp_path, *out)
    assert "leave the images out" in mistake("score", "sample:kitchen", "--about", "captions", *out)
    assert not (tmp_path / "profile").exists()
