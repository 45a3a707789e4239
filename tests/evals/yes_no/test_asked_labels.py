"""A model asked POPE's published questions, and scored with other labels of them too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from vlm_evals.data.coco import CocoFolder
from vlm_evals.data.formats import write_questions
from vlm_evals.data.pope_folder import PopeFolder
from vlm_evals.errors import AnswerMismatch, EvaluationError, FileFormatError, TaskError
from vlm_evals.protocol import Protocol
from vlm_evals.records import Answer, write_rows
from vlm_evals.runs import open_run
from vlm_evals.scored import run_report, score_run
from vlm_evals.tasks import asked_of, bind, samples
from vlm_evals.yes_no.questions import questions
from vlm_evals.yes_no.relabelled import CHANGES


@pytest.fixture
def beside(small_world: Path, tmp_path: Path) -> dict[str, Any]:
    """Published questions about twelve scenes and labels of them: every fourth was no and is yes, the first is gone."""
    data = CocoFolder.find(small_world)
    made = questions(bind("coco", "pope", data, limit=None, seed=7, strategies=("popular",)), data)
    write_questions(tmp_path / "coco_pope_popular.json", made)
    rows = [{"question_id": int(one.question_id), "image": one.image, "text": one.text} for one in made]
    labels = ["yes" if n % 4 == 1 else one.label for n, one in enumerate(made)]
    kept = [row | {"label": label} for row, label in zip(rows, labels, strict=True)][1:]
    (tmp_path / "labels").mkdir()
    write_rows(tmp_path / "labels/coco_repope_popular.json", kept)
    files = {"questions": [tmp_path / "coco_pope_popular.json"], "labels_from": tmp_path / "labels"}
    return files | {"labels": "repope"}


def bound(world: Path, given: dict[str, Any], limit: int | None = None) -> tuple[Protocol, CocoFolder]:
    data = PopeFolder.beside(CocoFolder.find(world), given)
    return bind("coco", "pope", data, limit=limit, seed=7, labels=given.get("labels")), data


def answered(folder: Path, protocol: Protocol, data: CocoFolder, said: Sequence[str]) -> dict[str, Any]:
    asked = samples(protocol, data)
    with open_run(folder, {"protocol": protocol.as_json(), "setting": {}}) as run:
        run.append(Answer(one.sample_id, said[n % len(said)]) for n, one in enumerate(asked))
    asked_of("pope").keep(folder, protocol, data)
    return run_report(score_run(folder))


def test_a_run_is_scored_with_both_labels_from_its_directory_alone(
    small_world: Path, beside: dict[str, Any], tmp_path: Path
) -> None:
    # 1 yes, 2 no, 3 yes, 4 no, … and all are answered with yes: half are right. The corrected labels have the 2nd, the
    # 6th and so on as yes and lack the 1st: of n - 1 questions n / 4 are still no, rounded down.
    protocol, data = bound(small_world, beside)
    report = answered(tmp_path / "run", protocol, data, ["Yes"])
    count = report["n"]
    assert count == len(questions(protocol, data))
    assert report["accuracy"] == 0.5
    other = report["labels"]["repope"]
    assert other["n"] == count - 1
    assert other["accuracy"] == (count - 1 - count // 4) / (count - 1)
    assert sum(other["label_transition"]["popular"][name] for name in CHANGES) == count
    assert f"1 of {count} popular" in report["settings"]["notes"][0]
    hashes = report["settings"]["protocol"]["data"]
    assert {"coco_pope_popular.json", "coco_repope_popular.json"} <= hashes.keys()


def test_a_limit_draws_among_the_published_images(small_world: Path, beside: dict[str, Any]) -> None:
    protocol, data = bound(small_world, beside, limit=3)
    asked = questions(protocol, data)
    assert len({one.image for one in asked}) == 3
    assert len(asked) == 18
    assert protocol.strategies == ("popular",)
    everything = questions(*bound(small_world, beside))
    assert asked == [one for one in everything if one.image in {each.image for each in asked}]


def test_a_protocol_without_labels_is_as_it_was(small_world: Path) -> None:
    data = CocoFolder.find(small_world)
    assert PopeFolder.beside(data, {"questions": None, "labels": None, "labels_from": None}) is data
    assert "options" not in bind("coco", "pope", data, limit=None, seed=7).as_json()


def test_what_cannot_be_asked_is_named_before_a_model_is(
    small_world: Path, beside: dict[str, Any], tmp_path: Path
) -> None:
    protocol, _ = bound(small_world, beside)
    with pytest.raises(TaskError, match="scores with repope too: say --labels repope --labels-from DIR"):
        samples(protocol, PopeFolder.beside(CocoFolder.find(small_world), {"questions": beside["questions"]}))
    with pytest.raises(AnswerMismatch, match=r"of the split 'adversarial', and repope labels popular"):
        bound(small_world, beside | {"questions": None})  # made questions, of all strategies
    away = [{"question_id": 1, "image": "COCO_val2014_000000999999.jpg", "text": "Is there?", "label": "yes"}]
    write_rows(tmp_path / "coco_pope_random.json", away)
    with pytest.raises(TaskError, match=r"1 of the 1 images that --questions ask about are not there.* id 999999"):
        bound(small_world, {"questions": [tmp_path / "coco_pope_random.json"]})
    write_rows(tmp_path / "coco_pope_random.json", [away[0] | {"image": "kitchen.jpg"}])
    with pytest.raises(EvaluationError, match=r"question 1 is about 'kitchen\.jpg', which is no name of COCO's"):
        bound(small_world, {"questions": [tmp_path / "coco_pope_random.json"]})


def test_a_run_whose_labels_were_taken_away_is_named(small_world: Path, beside: dict[str, Any], tmp_path: Path) -> None:
    protocol, data = bound(small_world, beside)
    answered(tmp_path / "run", protocol, data, ["Yes", "No"])
    asked_of("pope").keep(tmp_path / "run", protocol.changed(options={}), data)
    with pytest.raises(FileFormatError, match="line 1: has no label of repope: start the same eval again"):
        score_run(tmp_path / "run")
