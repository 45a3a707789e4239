"""`vlm-heads tune`: what is chosen, what cannot act, that it goes on, and that what it writes is used."""

import json
from pathlib import Path
from typing import Any

import pytest
from vlm_app.models import parse_mitigations
from vlm_app.studies.tuning import TRIED, best_of, tried_row

from tests.support.command import Command, Mistake
from vlm_heads import Mitigation

FEW = ("--captions", 4, "--questioned", 2, "--max-tokens", 4, "--device", "cpu")


def row(setting: str, off: float | None, *, kept: bool = True, chair_s: float = 0.0) -> dict[str, Any]:
    return {"setting": setting, "at_equal_recall": off, "kept": kept, "chair_s": chair_s}


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row("a", -0.01), row("b", -0.05), row("c", 0.02)], "b"),
        ([row("a", -0.01), row("b", -0.05, kept=False)], "a"),  # fewer inventions, but recall or accuracy lost
        ([row("a", 0.03), row("b", None, chair_s=-0.9)], "a"),  # what left the curve is not known to be better
        ([row("a", None, chair_s=0.1), row("b", None, chair_s=-0.1)], "b"),
        ([row("a", 0.03, kept=False), row("b", 0.01, kept=False)], "b"),  # none may be chosen: the best is measured
    ],
)
def test_the_lowest_at_equal_recall_that_does_no_harm_is_chosen(rows: list[dict[str, Any]], best: str) -> None:
    assert best_of(rows)["setting"] == best


def test_a_row_holds_differences_and_whether_it_may_be_chosen() -> None:
    def compared(name: str, estimate: float, high: float) -> dict[str, Any]:
        return {"difference": {name: {"estimate": estimate, "low": -1.0, "high": high}, "chair_s": {"estimate": -0.1}}}

    def found(recall: float, accuracy: float) -> dict[str, Any]:
        chair = compared("recall", -0.01, recall) | {"curve_difference": {"chair_s": {"estimate": -0.03}}}
        return {"chair": {"controls": {"x": chair}}, "pope": {"controls": {"x": compared("accuracy", 0.0, accuracy)}}}

    assert tried_row("x", found(0.01, 0.01)) == {
        "setting": "x", "recall": -0.01, "chair_s": -0.1, "at_equal_recall": -0.03, "pope_accuracy": 0.0, "kept": True,
    }  # fmt: skip
    assert not tried_row("x", found(-0.01, 0.01))["kept"]
    assert not tried_row("x", found(0.01, -0.01))["kept"]


def test_everything_tried_by_default_can_be_read() -> None:
    assert all(Mitigation.parse(words) for words in TRIED)


def test_nothing_is_written_where_nothing_helps_and_what_is_asked_stays(command: Command, tmp_path: Path) -> None:
    tried = ("--try", "vhr", "--try", "var")
    outcome = command("tune", "mini", "--out", tmp_path / "tuned", *tried, *FEW)
    assert outcome.code == 1
    said = " ".join(outcome.out.split())
    assert "var" in said
    assert "cannot act" in said  # mini has no sinks
    assert "4 pictures are too few" not in said  # two are asked about
    assert "2 pictures are too few to show anything" in said
    assert not (tmp_path / "tuned").exists()
    answers = tmp_path / "tuned.runs" / "search" / "chair" / "vhr" / "answers.jsonl"
    before = answers.read_bytes()
    command("tune", "mini", "--out", tmp_path / "tuned", *tried, "--even-if-useless", *FEW)
    assert answers.read_bytes() == before
    evidence = json.loads((tmp_path / "tuned" / "evidence.json").read_text())
    assert (evidence["setting"], evidence["benefit"]) == ("vhr", False)
    assert "no attention sinks" in evidence["unfit"]["var"]
    assert Mitigation.from_pretrained(tmp_path / "tuned") == Mitigation.parse("vhr")
    asked = ("describe", "sample:kitchen", "--model", "mini", "--json", "--with")
    kept, written = (command(*asked, words).value for words in (tmp_path / "tuned", "vhr"))
    assert {**kept[0], "with": 0, "seconds": 0} == {**written[0], "with": 0, "seconds": 0}


def test_a_setting_with_quoted_spaces_and_a_stream_of_its_own_is_tried(command: Command, tmp_path: Path) -> None:
    words = 'icd:instruction="Look away."'
    outcome = command("tune", "mini", "--out", tmp_path / "tuned", "--try", words, *FEW, "--json")
    assert outcome.value["setting"] == words


def test_a_check_is_tried_like_the_others(command: Command, tmp_path: Path) -> None:
    outcome = command("tune", "mini", "--out", tmp_path / "tuned", "--try", "askback", *FEW, "--json")
    assert outcome.value["setting"] == "askback"


def test_a_kept_mitigation_brings_its_profile_and_stands_beside_words(tmp_path: Path) -> None:
    Mitigation.parse("vhr:gain=1.5").save_pretrained(tmp_path / "kept")
    assert parse_mitigations([str(tmp_path / "kept"), "vcd"]).words() == ("vhr:gain=1.5", "vcd")


def test_too_few_pictures_are_refused(mistake: Mistake, small_world: Path, tmp_path: Path) -> None:
    asked = ("--data", small_world, "--out", tmp_path / "tuned", "--captions", 900, "--device", "cpu", "--try", "vhr")
    assert "lower --captions 900" in mistake("tune", "mini", *asked)


def test_no_setting_that_can_act_is_a_clear_line(mistake: Mistake, tmp_path: Path) -> None:
    said = mistake("tune", "mini", "--out", tmp_path / "tuned", "--try", "var", *FEW)
    assert "no setting can act on this model: var: " in said
