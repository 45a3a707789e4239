"""`vlm-heads calibrate`: what is chosen, what is refused, and that it goes on where it stopped."""

import json
from pathlib import Path

import pytest
import torch
from vlm_app.studies.benefit import judged, measured_table, searched_row
from vlm_app.studies.calibration import settings_to_try
from vlm_evals.data.coco import CocoFolder
from vlm_evals.tasks import bind, samples

from tests.support.command import Command, Mistake
from vlm_heads import HeadProfile

SMALL = ("--samples", 4, "--trials", 2, "--captions", 3, "--questioned", 2, "--max-tokens", 3)


Interval = dict[str, float]


def _off(estimate: float, low: float, high: float) -> Interval:
    return {"estimate": estimate, "low": low, "high": high}


SAME, LOWER, HIGHER = _off(0.0, -0.1, 0.1), _off(-0.2, -0.3, -0.1), _off(0.2, 0.1, 0.3)
FEWER, NONE, WORSE = "fewer hallucinations at equal recall", "no difference shown", "worse"


@pytest.mark.parametrize(
    ("verdict", "recall", "accuracy", "kept", "benefit"),
    [
        (FEWER, SAME, SAME, True, True),
        (NONE, SAME, HIGHER, True, True),
        (NONE, HIGHER, SAME, True, False),  # more recall alone is a longer caption
        (NONE, SAME, SAME, True, False),
        (FEWER, LOWER, SAME, True, False),
        (FEWER, SAME, LOWER, True, False),
        (FEWER, SAME, HIGHER, False, False),
        ("fewer hallucinations, recall lost", SAME, SAME, True, False),
    ],
)
def test_what_counts_as_a_benefit(
    verdict: str, recall: Interval, accuracy: Interval, kept: bool, benefit: bool
) -> None:
    chair = {"n": 20, "verdict": verdict, "difference": {"recall": recall}}
    pope = {"n": 20, "verdict": NONE, "difference": {"accuracy": accuracy}}
    found, reason = judged(chair, pope, kept)
    assert found == benefit
    assert reason
    few = judged(chair | {"n": 19}, pope, kept), judged(chair, pope | {"n": 4}, kept)
    assert [one for one, _ in few] == [False, False]
    assert "4 pictures are too few" in few[1][1]


def test_a_searched_setting_is_kept_unless_it_significantly_loses() -> None:
    def row(recall: Interval, accuracy: Interval) -> dict[str, object]:
        chair = {"controls": {"x": {"difference": {"chair_s": LOWER, "recall": recall}}}}
        return searched_row("x", {"chair": chair, "pope": {"controls": {"x": {"difference": {"accuracy": accuracy}}}}})

    assert row(SAME, SAME)["kept"]
    assert not row(LOWER, SAME)["kept"]
    assert not row(SAME, LOWER)["kept"]
    assert row(SAME, HIGHER)["objective"] == pytest.approx(-0.4)  # 0.2 fewer captions that invent, 0.2 more accuracy


def test_settings_are_drawn_by_the_seed() -> None:
    drawn = settings_to_try(8, seed=1)
    assert len({one.name for one in drawn}) == 8
    assert drawn == settings_to_try(8, seed=1)
    assert drawn != settings_to_try(8, seed=2)
    everything = settings_to_try(99, seed=1)
    assert len(everything) == 30
    assert any(one.strength < 1 for one in everything)


def test_a_part_of_a_folder_asks_about_its_own_images_alone(small_world: Path) -> None:
    data = CocoFolder.find(small_world)
    images = sorted(data.images)
    left, right = data.only(images[:6]), data.only(images[6:])
    assert sorted([*left.images, *right.images]) == images
    asked = []
    for part in (left, right):
        for metric in ("chair", "pope"):
            protocol = bind("world-held-out", metric, part, limit=2, seed=0)  # type: ignore[arg-type]
            asked.append({sample.image for sample in samples(protocol, part)})
            assert set(protocol.image_ids) <= set(part.images)
    assert not (asked[0] | asked[1]) & (asked[2] | asked[3])


@pytest.mark.usefixtures("nltk_data")
def test_a_useless_profile_is_refused_and_written_only_when_asked_for(
    command: Command, mistake: Mistake, untrained_mini: Path, small_world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "profile"
    again = ("calibrate", untrained_mini, "--data", small_world, "--out", out, *SMALL)
    refused = command(*again)
    assert refused.code == 1
    assert "no benefit was shown" in refused.out
    assert "nothing was written" in refused.out
    assert not out.exists()

    runs = tmp_path / "profile.runs"
    answered = {path: path.stat().st_mtime_ns for path in (runs / "search").rglob("protocol.json")}
    torn = runs / "search" / "chair" / "plain" / "answers.jsonl"
    torn.write_bytes(torn.read_bytes()[:-20])  # as a kill leaves it
    written = command(*again, "--even-if-useless", "--json")
    assert written.code == 0
    assert {path: path.stat().st_mtime_ns for path in (runs / "search").rglob("protocol.json")} == answered
    card = written.value
    assert card["benefit"] is False
    assert {row["metric"] for row in card["measured"]} >= {"CHAIR_S", "recall", "POPE accuracy"}
    assert len(card["search"]) == 2
    assert len(card["weights"]) == 64
    assert set(card["protocols"]) == {"chair, search", "pope, search", "chair, report", "pope, report"}
    assert len(set(card["protocols"].values())) == 4
    profile = HeadProfile.from_pretrained(out)
    assert profile.card["benefit"] is False
    assert profile.gains is not None
    assert profile.samples == 4
    assert bool((profile.gains != 1).any())
    assert json.loads((out / "head_profile.json").read_text())["card"]["reason"]
    # the profile is what the other commands take
    folded = command("fold", untrained_mini, "--profile", out, "--out", tmp_path / "folded")
    assert folded.code == 0
    assert "No benefit was shown" in (tmp_path / "folded" / "README.md").read_text()
    assert "holds another run" in mistake(*again[:-1], 4)  # the same folder, longer captions


@pytest.mark.usefixtures("nltk_data")
def test_heads_may_be_chosen_by_another_scorer(
    command: Command, untrained_mini: Path, small_world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "profile"
    asked = ("calibrate", untrained_mini, "--data", small_world, "--out", out, *SMALL, "--even-if-useless", "--json")
    card = command(*asked, "--scorer", "allpath-format", "--about", "questions").value
    assert card["scorer"] == "allpath-format"
    profile = HeadProfile.from_pretrained(out)
    assert profile.samples == 8  # two questions about each of four pictures
    assert bool((profile.scores < 0).any())
    kept = HeadProfile.from_pretrained(tmp_path / "profile.runs" / "scores")
    assert kept.notes["scorer"] == kept.card["scorer"] == "allpath-format"


def test_mistakes_are_one_line(mistake: Mistake, small_world: Path, tmp_path: Path) -> None:
    few = mistake("calibrate", "mini", "--data", small_world, "--out", tmp_path / "p", "--captions", 99)
    assert "lower --captions 99" in few
    assert "no folder" in mistake("calibrate", "mini", "--data", tmp_path / "gone", "--out", tmp_path / "p")
    assert "--out" in mistake("calibrate", "mini")
    assert "did you mean 'mini'" in mistake("calibrate", "minni", "--out", tmp_path / "p")
    assert not list(tmp_path.glob("p*"))  # nothing is drawn for a model that is not there
    assert "--trials" in mistake("calibrate", "mini", "--out", tmp_path / "p", "--trials", 0)


def test_the_measured_table_has_plain_reinforced_and_the_interval() -> None:
    chair = dict.fromkeys(("chair_s", "chair_i", "chair_i_distinct", "recall"), 0.5) | {"mean_tokens": 20.0}
    pope = dict.fromkeys(("accuracy", "f1", "false_yes_rate", "yes_ratio"), 0.9)
    found = {
        "chair": {"plain": chair, "mitigated": chair, "difference": dict.fromkeys(chair, SAME),
                  "curve": {"difference": {"chair_s": LOWER}}},
        "pope": {"plain": pope, "mitigated": pope, "difference": dict.fromkeys(pope, SAME)},
    }  # fmt: skip
    rows = {row["metric"]: row for row in measured_table(found)}
    assert rows["CHAIR_S"] == {
        "metric": "CHAIR_S", "plain": 0.5, "reinforced": 0.5, "difference": 0.0, "low": -0.1, "high": 0.1
    }  # fmt: skip
    assert rows["CHAIR_S at equal recall"]["plain"] is None
    assert rows["CHAIR_S at equal recall"]["difference"] == -0.2
    assert "POPE accuracy" in rows
    assert torch.tensor([row["high"] for row in rows.values()]).isfinite().all()
