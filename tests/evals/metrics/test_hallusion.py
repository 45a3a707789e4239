"""HallusionBench without a judge: both programs' readings, figures and groups by hand."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from vlm_evals.errors import AnswerMismatch, EvaluationError, FileFormatError
from vlm_evals.judge import judge
from vlm_evals.metrics.hallusion import HALLUSION, read_answer, read_saved
from vlm_evals.reports.pairs import compare

Row = dict[str, Any]


def row(category: str, figure: int, question: int, label: int, visual: int, said: str) -> Row:
    return {
        "category": category,
        "subcategory": "chart",
        "visual_input": str(visual),
        "set_id": "0",
        "figure_id": str(figure),
        "question_id": str(question),
        "question": f"Is it so, {figure} {question}?",
        "gt_answer": str(label),
        "filename": f"./{category}/chart/0_{figure}.png" if visual else None,
        "model_prediction": said,
    }


ROWS = [
    row("VS", 0, 0, 1, 0, "yes"),  # has no picture
    row("VS", 1, 0, 1, 1, "Yes."),
    row("VS", 1, 1, 0, 1, "No, it is not"),
    row("VS", 2, 0, 0, 2, "Yes, it is"),
    row("VS", 2, 1, 1, 2, "yes, and no"),
    row("VD", 0, 0, 0, 1, "It cannot be told; eyes may err"),
]


def files(folder: Path, rows: list[Row]) -> tuple[Path, Path]:
    """Return a file of answers and one of questions."""
    questions = [{name: value for name, value in row.items() if name != "model_prediction"} for row in ROWS]
    (folder / "HallusionBench.json").write_text(json.dumps(questions), "utf-8")
    (folder / "answers.json").write_text(json.dumps(rows), "utf-8")
    return folder / "answers.json", folder / "HallusionBench.json"


@pytest.mark.parametrize(
    ("answer", "words", "substring"),
    [
        ("Yes.", "yes", "yes"),
        ("No, there isn't", "no", "no"),
        ("yes or no", "unparsed", "yes"),
        ("Maybe", "unparsed", "no"),
        ("eyes", "unparsed", "yes"),
        ("(yes)", "yes", "yes"),
        ("yes-no", "unparsed", "yes"),
        ("yes,no", "unparsed", "yes"),
        ("1,000: yes/no", "unparsed", "yes"),  # a number with a comma drops marks: "yesno" is no word
        ("", "unparsed", "no"),
    ],
)
def test_the_two_programs_read_differently(answer: str, words: str, substring: str) -> None:
    assert (read_answer(answer, "words"), read_answer(answer, "substring")) == (words, substring)


def test_a_worked_example(tmp_path: Path) -> None:
    # words: right, right | wrong, neither | neither -> 2 of 5. Figures: VS 1 is right, VS 2 and VD 0 are not.
    # Groups: VS question 0 is right of figure 1 and wrong of 2; VS 1 likewise; VD 0 wrong -> 0 of 3
    answers, questions = files(tmp_path, ROWS)
    found = judge("hallusion", answers, questions=questions, per_question=tmp_path / "out.jsonl")
    assert (found["accuracy"], found["figures_right"], found["groups_right"]) == (2 / 5, 1 / 3, 0)
    assert (found["original_accuracy"], found["edited_accuracy"]) == (2 / 3, 0)
    assert (found["yes_ratio"], found["unparsed"], found["reader"]) == (2 / 5, 2 / 5, "words")
    assert found["splits"]["VD"]["accuracy"] == 0
    assert found["notes"] == [
        "1 answers are to questions without a picture, which only the official judge scores: passed over"
    ]
    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[2])["reading"] == "yes"
    # substring: right, right | wrong, right | "eyes" holds yes, wrong -> 3 of 5; group 1 of VS is right of both figures
    found = judge("hallusion", answers, questions=questions, reader="substring")
    assert (found["accuracy"], found["figures_right"], found["groups_right"]) == (3 / 5, 1 / 3, 1 / 3)


def test_an_lmms_eval_log_is_read(tmp_path: Path) -> None:
    answers, questions = files(tmp_path, ROWS)
    log = [{"doc": {**one, "model_prediction": ""}, "filtered_resps": [one["model_prediction"]]} for one in ROWS[1:]]
    answers.write_text("\n".join(map(json.dumps, log)), "utf-8")
    assert judge("hallusion", answers, questions=questions)["accuracy"] == 2 / 5


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (ROWS[:-1], "question VD/chart/0/0/0 has no answer"),
        ([*ROWS, ROWS[1]], "question VS/chart/0/1/0 is answered twice"),
        ([*ROWS, row("VD", 7, 7, 1, 1, "yes")], "answers question VD/chart/0/7/7, which is not asked"),
        (
            [*ROWS[:-1], ROWS[-1] | {"question": "What?"}],
            "answers 'What.' where question VD/chart/0/0/0 is 'Is it so, 0 0.'",
        ),
    ],
)
def test_answers_that_do_not_fit_are_named(tmp_path: Path, rows: list[Row], complaint: str) -> None:
    answers, questions = files(tmp_path, rows)
    with pytest.raises(AnswerMismatch, match=complaint):
        judge("hallusion", answers, questions=questions)


def test_other_files_are_refused_by_line(tmp_path: Path) -> None:
    answers, questions = files(tmp_path, ROWS)
    with pytest.raises(FileFormatError, match="has no answer; it stands in `model_prediction`"):
        judge("hallusion", questions, questions=questions)
    (tmp_path / "captions.jsonl").write_text('{"image_id": 1, "caption": "A dog."}', "utf-8")
    with pytest.raises(FileFormatError, match="line 1: does not say which question it answers: category, sub"):
        judge("hallusion", tmp_path / "captions.jsonl", questions=questions)
    with pytest.raises(FileFormatError, match="line 1: a question needs category, subcategory"):
        judge("hallusion", answers, questions=tmp_path / "captions.jsonl")
    with pytest.raises(EvaluationError, match="unknown reader 'gpt'; choose one of words, substring"):
        judge("hallusion", answers, questions=questions, reader="gpt")


def test_sets_of_figures_are_the_units_of_a_comparison(tmp_path: Path) -> None:
    answers, questions = files(tmp_path, ROWS)
    before = read_saved(answers, questions).scores
    mended = [*ROWS[:3], ROWS[3] | {"model_prediction": "No"}, ROWS[4] | {"model_prediction": "Yes"}, ROWS[5]]
    answers.write_text(json.dumps(mended), "utf-8")
    found = compare(HALLUSION, before, {"mitigated": read_saved(answers, questions).scores}, resamples=50).pair()
    assert (found["n"], found["questions"]) == (2, 5)  # VS/chart/0 and VD/chart/0
    # two answers became right, the figure VS 2 with them and both groups of VS
    assert found["difference"]["accuracy"]["estimate"] == pytest.approx(2 / 5)
    assert found["difference"]["figures_right"]["estimate"] == pytest.approx(1 / 3)
    assert found["difference"]["groups_right"]["estimate"] == pytest.approx(2 / 3)
    assert found["mcnemar"]["accuracy"] == {"only_plain": 0, "only_mitigated": 2, "p": 0.5}


def plainly(rows: list[Row], reader: str) -> Mapping[str, float]:
    """Return the three figures as the two programs compute them: a flat list of questions, keys put together."""
    figures, groups, right = defaultdict(list), defaultdict(list), []
    for one in rows:
        if not one["filename"]:
            continue
        hit = read_answer(one["model_prediction"], reader) == ("yes" if one["gt_answer"] == "1" else "no")
        where = "_".join([one["category"], one["subcategory"], one["set_id"]])
        figures[f"{where}_{one['figure_id']}"].append(hit)
        groups[f"{where}_{one['question_id']}"].append(hit)
        right.append(hit)
    parts = {"figures_right": figures, "groups_right": groups}
    counted = {name: sum(map(all, part.values())) / len(part) for name, part in parts.items()}
    return {"accuracy": sum(right) / len(right), **counted}


@pytest.mark.shared
@pytest.mark.parametrize("reader", ["words", "substring"])
def test_made_answers_to_the_published_questions(shared_data: Path, tmp_path: Path, reader: str) -> None:
    questions = shared_data / "hallusionbench/HallusionBench.json"
    said = ["Yes", "No.", "Yes, no", "eyes", "no; yes?", "Yes. It is", "No, it is not", ""]
    asked = json.loads(questions.read_text("utf-8"))
    rows = [one | {"model_prediction": said[number * 7 % 23 % 8]} for number, one in enumerate(asked)]
    (tmp_path / "answers.json").write_text(json.dumps(rows), "utf-8")
    found = judge("hallusion", tmp_path / "answers.json", questions=questions, reader=reader)
    assert (found["questions"], found["counts"]["figures"], found["counts"]["groups"]) == (951, 346, 455)
    assert {name: found[name] for name in ("accuracy", "figures_right", "groups_right")} == plainly(rows, reader)
    (tmp_path / "right.json").write_text(
        json.dumps([one | {"model_prediction": ("No", "Yes")[int(one["gt_answer"])]} for one in asked]), "utf-8"
    )
    found = judge("hallusion", tmp_path / "right.json", questions=questions, reader=reader)
    assert (found["accuracy"], found["figures_right"], found["groups_right"]) == (1, 1, 1)
