"""Evaluations with a check: its controls as arms, a receipt for each row, and what it cannot change is said."""

from dataclasses import replace
from pathlib import Path

import pytest
from vlm_evals.answer import Asking, Processes
from vlm_evals.arms import Arm, arms_of
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import TaskError
from vlm_evals.experiment import ask_arms, choose_protocol, notes_on_check
from vlm_evals.runs import answers_in
from vlm_evals.scored import compare_runs
from vlm_evals.tasks import samples
from vlm_evals.text.places import coco_objects

from vlm_heads import VLM, AskBack, Mitigation

CHECK = AskBack(objects=coco_objects(), margin=1.5)


@pytest.fixture(scope="module")
def asking() -> Asking:
    return Asking(VLM.from_pretrained("mini"), batch_size=5)


def _run(asking: Asking, metric: str, data: CocoFolder, arms: list[Arm], out: Path) -> None:
    protocol = choose_protocol("world-held-out", metric, data, limit=6, seed=3)
    ask_arms(asking, protocol, data, arms, out, processes=Processes())


def test_controls_are_arms() -> None:
    names = [arm.name for arm in arms_of(Mitigation(check=CHECK), paired=True, controls=True)]
    assert names == ["plain", "mitigated", "random-words", "t-vhd-words", "blind-words"]
    both = arms_of(replace(Mitigation.parse("vhr"), check=CHECK), paired=True, controls=True)
    assert [arm.name for arm in both[2:]] == ["bottom-heads", "random-heads", *names[2:]]
    assert both[2].mitigation.check == CHECK
    assert both[4].mitigation.interventions == both[1].mitigation.interventions
    with pytest.raises(TaskError, match="chooses no heads"):
        arms_of(Mitigation.parse("pai"), paired=True, controls=True)


def test_each_answer_keeps_its_own_questions(asking: Asking, small_world: Path, tmp_path: Path) -> None:
    data = CocoFolder.find(small_world)
    _run(asking, "chair", data, arms_of(Mitigation(check=CHECK), paired=True), tmp_path)
    find = coco_objects()
    for answer in answers_in(tmp_path / "mitigated").values():
        assert answer.receipt is not None
        kept = {one["object"] for one in answer.receipt["check"]["asked"] if one["fate"] == "kept"}
        assert kept == {name for _, _, name in find(answer.text)}
    report = compare_runs(tmp_path / "plain", tmp_path / "mitigated", seed=0)
    assert report["settings"]["interventions"][0].startswith("askback:")
    assert "notes" not in report["settings"] or not any("yes or no" in one for one in report["settings"]["notes"])


def test_that_questions_cannot_change_is_said(asking: Asking, small_world: Path, tmp_path: Path) -> None:
    data = CocoFolder.find(small_world)
    protocol = choose_protocol("world-held-out", "pope", data, limit=2, seed=3)
    said = notes_on_check(Mitigation(check=CHECK), samples(protocol, data))
    assert said == ["askback never checks an answer that begins with yes or no: it cannot change these figures"]
    assert not notes_on_check(Mitigation(), samples(protocol, data))
    ask_arms(asking, protocol, data, arms_of(Mitigation(check=CHECK), paired=True), tmp_path, processes=Processes())
    report = compare_runs(tmp_path / "plain", tmp_path / "mitigated", seed=0)
    assert said[0] in report["settings"]["notes"]
    plain, mitigated = (answers_in(tmp_path / name) for name in ("plain", "mitigated"))
    assert {name: one.text for name, one in plain.items()} == {name: one.text for name, one in mitigated.items()}
