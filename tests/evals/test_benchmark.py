"""Benchmarks with questions of their own, asked from a folder to a report."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from vlm_evals.answer import Asking, Processes
from vlm_evals.arms import arms_of
from vlm_evals.errors import TaskError
from vlm_evals.experiment import ask_arms, choose_protocol
from vlm_evals.judge import judge
from vlm_evals.records import Answer
from vlm_evals.registry import find_metric
from vlm_evals.runs import answers_in
from vlm_evals.scored import compare_runs, evaluation_report, score_run
from vlm_evals.tasks import asked_of, samples

from vlm_heads import VLM, Mitigation


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), "white").save(path)


def make_mme(root: Path) -> None:
    """Write two images in each of the two layouts of MME's release."""
    for name in ("1", "2"):
        picture(root / "existence" / f"{name}.jpg")
        (root / "existence" / f"{name}.txt").write_text("Is there a dog?\tYes\nIs there a cat?\tNo\n", "utf-8")
        picture(root / "posters/images" / f"{name}.jpg")
        texts = root / "posters/questions_answers_YN"
        texts.mkdir(exist_ok=True)
        (texts / f"{name}.txt").write_text("Is it old?\tYes\nIs it new?\tNo\n", "utf-8")


def make_hallusion(root: Path) -> None:
    """Write a set of two figures with two questions, one of a single figure, and a question without a picture."""
    rows = []
    for category, figure, question in (
        ("VS", 1, 0),
        ("VS", 1, 1),
        ("VS", 2, 0),
        ("VS", 2, 1),
        ("VD", 0, 0),
        ("VS", 0, 0),
    ):
        name = f"./{category}/chart/0_{figure}.png" if (category, figure) != ("VS", 0) else None
        place = {"category": category, "subcategory": "chart", "set_id": "0", "figure_id": str(figure)}
        asked = {"question_id": str(question), "question": "Is it so?", "gt_answer": "1", "visual_input": "1"}
        rows.append({**place, **asked, "filename": name})
        if name:
            picture(root / "hallusion_bench" / name)
    (root / "HallusionBench.json").write_text(json.dumps(rows), "utf-8")


def make_amber(root: Path) -> None:
    """Write two images with questions; a description needs language data."""
    kinds = ("discriminative-attribute-state", "discriminative-hallucination", "relation", "discriminative-relation")
    annotations = [{"id": number, "type": kind, "truth": "no"} for number, kind in enumerate(kinds, start=1)]
    queries = [{"id": number, "image": f"AMBER_{number % 2}.jpg", "query": "Is it so?"} for number in range(1, 5)]
    for number in range(2):
        picture(root / "image" / f"AMBER_{number}.jpg")
    for name, value in (("annotations", annotations), ("query_all", queries), ("relation", {"dog": []})):
        (root / f"{name}.json").write_text(json.dumps(value), "utf-8")
    (root / "safe_words.txt").write_text("line", "utf-8")


def make_mmvp(root: Path) -> None:
    """Write two pairs of pictures."""
    rows = [f"{number},Is it red?,(a) Yes (b) No,({'ab'[number % 2]})" for number in range(1, 5)]
    for number in range(1, 5):
        picture(root / "MMVP Images" / f"{number}.jpg")
    (root / "Questions.csv").write_text("\n".join(["Index,Question,Options,Correct Answer", *rows]), "utf-8")


def make_mcq(root: Path) -> None:
    """Write two of COCO's pictures, with a question each in two splits."""
    text = "Which of the following appears in the image?\nA. dog\nB. cat\nC. car\nD. bus\n"
    names = [f"COCO_val2014_{number:012}.jpg" for number in (7, 42)]
    for name in names:
        picture(root / "val2014" / name)
    for split in ("random", "popular"):
        rows = [{"question_id": number, "image": name, "text": text, "label": "A"} for number, name in enumerate(names)]
        (root / f"coco_mcq_{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")


MADE: dict[str, tuple[Callable[[Path], None], int, int]] = {  # answers and units
    "mme": (make_mme, 8, 4),
    "hallusion": (make_hallusion, 5, 2),
    "amber": (make_amber, 4, 2),
    "mmvp": (make_mmvp, 4, 2),
    "mcq-pope": (make_mcq, 4, 2),
}


@pytest.fixture(scope="module")
def vlm(untrained_mini: Path) -> VLM:
    return VLM.from_pretrained(untrained_mini)


@pytest.fixture(params=MADE)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(vlm: VLM, name: str, root: Path, out: Path, limit: int | None = None) -> None:
    data = asked_of(name).find_data(root)
    protocol = choose_protocol(name, name, data, limit=limit, seed=0, max_new_tokens=2)
    arms = arms_of(Mitigation(), paired=False, curve=False, controls=False)
    ask_arms(Asking(vlm, batch_size=4), protocol, data, arms, out, processes=Processes())


def test_a_folder_is_asked_scored_and_compared(vlm: VLM, name: str, tmp_path: Path) -> None:
    make, answers, units = MADE[name]
    make(tmp_path / "data")
    asked(vlm, name, tmp_path / "data", tmp_path / "run")
    run = score_run(tmp_path / "run")
    assert (len(run.scores), len({score.unit for score in run.scores})) == (answers, units)
    report = evaluation_report(tmp_path / "run", {"": 0.0}, seed=0)
    assert report["kind"] == name
    paired = compare_runs(tmp_path / "run", tmp_path / "run", seed=0)
    assert (paired["n"], paired["verdict"]) == (units, "no difference shown")


def test_a_limit_draws_what_belongs_together(vlm: VLM, name: str, tmp_path: Path) -> None:
    make, _, units = MADE[name]
    make(tmp_path / "data")
    if units == 1:
        pytest.skip("there is one unit")
    asked(vlm, name, tmp_path / "data", tmp_path / "run", limit=1)
    scores = score_run(tmp_path / "run").scores
    assert len({score.unit for score in scores}) == 1
    whole = [item for item in asked_of(name).find_data(tmp_path / "data").items if item.unit == scores[0].unit]
    assert [score.key for score in scores] == [item.key for item in whole]


def test_a_unit_whose_pictures_are_missing_is_not_asked_about_and_said(name: str, tmp_path: Path) -> None:
    make, _, units = MADE[name]
    make(tmp_path / "data")
    sorted([*(tmp_path / "data").rglob("*.jpg"), *(tmp_path / "data").rglob("*.png")])[0].unlink()
    data = asked_of(name).find_data(tmp_path / "data")
    assert len(data.images) == units - 1
    assert "annotated pictures are missing" in data.shortfall


def test_a_unit_of_which_one_answer_failed_counts_nowhere(vlm: VLM, name: str, tmp_path: Path) -> None:
    make, answers, _ = MADE[name]
    make(tmp_path / "data")
    asked(vlm, name, tmp_path / "data", tmp_path / "run")
    run = score_run(tmp_path / "run")
    first = run.scores[0]
    given = answers_in(tmp_path / "run")
    given[first.key] = Answer(first.key, "", error="the picture is torn")
    found = asked_of(name).score(tmp_path / "run", run.protocol, given)
    assert first.unit not in {score.unit for score in found.scores}
    lost = answers - len(found.scores) - 1
    assert any(f"{lost} answers are left out" in note for note in found.facts.get("notes", ())) == (lost > 0)
    if find_metric(name).counts_units:
        assert [one.key for one in replace(run).without([first.key]).scores] == [one.key for one in found.scores]


def test_a_part_of_a_benchmark_is_asked_alone(tmp_path: Path) -> None:
    def asked_splits(name: str, **entries: str) -> set[str | None]:
        data = asked_of(name).find_data(tmp_path / name)
        protocol = choose_protocol(name, name, data, limit=None, seed=0, **entries)
        units = {item.unit for item in data.items if item.split in {one.split for one in samples(protocol, data)}}
        assert set(protocol.image_ids) <= units
        return {sample.split for sample in samples(protocol, data)}

    make_mme(tmp_path / "mme")
    assert asked_splits("mme") == {"existence", "posters"}
    assert asked_splits("mme", part="hallucination") == {"existence"}
    with pytest.raises(TaskError, match="nothing is asked about the images"):
        asked_splits("mme", part="cognition")
    make_amber(tmp_path / "amber")
    assert asked_splits("amber", task="discriminative") == {"state", "existence", "relation"}
    with pytest.raises(TaskError, match="nothing is asked about the images"):
        asked_splits("amber", task="generative")


def test_a_prompt_has_a_place_for_the_question(name: str) -> None:
    with pytest.raises(TaskError, match=r"has no place \{question\}"):
        asked_of(name).check({"prompt": "Well?"})


def test_the_written_answers_of_mme_are_its_programs(vlm: VLM, tmp_path: Path) -> None:
    make_mme(tmp_path / "data")
    asked(vlm, "mme", tmp_path / "data", tmp_path / "run")
    report = evaluation_report(tmp_path / "run", {"": 0.0}, seed=0)
    texts = [tmp_path / "run" / f"{name}.txt" for name in ("existence", "posters")]
    assert judge("mme", texts)["score"] == report["score"]
