"""Reports: data, Markdown and plots of one run, of two, and of captions with questions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from vlm_evals.data.formats import Question
from vlm_evals.metrics.chair import CHAIR, CaptionScore
from vlm_evals.metrics.pope import POPE, QuestionScore
from vlm_evals.ratios import Ratio
from vlm_evals.records import Score
from vlm_evals.registry import find_metric
from vlm_evals.report import paired_report, single_report, write_report
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.pairs import compare
from vlm_evals.reports.tables import cells, columns, headline, split_tables, tables
from vlm_evals.text.objects import CaptionObjects, Mention

SETTINGS = {
    "protocol": {
        "name": "held-out",
        "hash": "0123abcd",
        "image_ids": list(range(4)) * 100,
        "data": {"instances.json": "ab" * 32},
        "prompt": "Describe this image.",
        "decoding": {"do_sample": False, "num_beams": 1},
        "parser": None,
    },
    "model": "mini",
    "interventions": ["vhr:gain=2"],
    "pipeline": "chair-2018",
    "notes": ["Punkt data was not found."],
}


def captions(*said: list[str]) -> list[Score]:
    return [
        CaptionScore(
            image,
            CaptionObjects(tuple(Mention(node, node) for node in nodes), tuple(nodes), ("a sentence",)),
            frozenset({"dog", "cat"}),
        ).as_score()
        for image, nodes in enumerate(said)
    ]


PLAIN = captions(["dog", "oven"], ["cat", "oven"], ["dog", "cat", "kite"], ["dog"])
MITIGATED = captions(["dog"], ["cat"], ["dog", "cat"], ["dog", "kite"])


def answers(readings: list[str]) -> list[Score]:
    return [
        QuestionScore(Question(str(n), f"{n}.jpg", "?", "yes", split), reading, reading).as_score()
        for split in ("random", "popular")
        for n, reading in enumerate(readings)
    ]


def both(**more: object) -> dict:
    said = compare(
        CHAIR,
        PLAIN,
        {"mitigated": MITIGATED, "bottom heads": PLAIN},
        curve={1.0: captions(["dog"], ["cat", "oven"], ["dog"], ["dog"])},
        resamples=100,
    )
    after = {"mitigated": answers(["yes", "yes", "no"])}
    asked = compare(POPE, answers(["yes", "no", "unparsed"]), after, resamples=100)
    return paired_report([said, asked], settings=SETTINGS, **more)


def test_a_paired_report_has_both_sides_and_the_difference() -> None:
    report = both()
    assert report["plain"]["chair_s"] == 3 / 4
    assert report["mitigated"]["chair_s"] == 1 / 4
    assert report["difference"]["chair_s"]["estimate"] == -0.5
    assert set(report["difference"]["chair_s"]) == {"estimate", "low", "high"}
    for side in ("plain", "mitigated", "difference"):
        assert {"chair_s", "chair_i", "chair_i_distinct", "recall", "mean_tokens"} <= set(report[side])
        assert {"accuracy", "f1", "yes_ratio", "unparsed"} <= set(report[side]["pope"])
    assert report["plain"]["pope"]["unparsed"] == pytest.approx(1 / 3)


def test_questions_alone_stand_at_the_top() -> None:
    asked = compare(POPE, answers(["no"]), {"mitigated": answers(["yes"])}, resamples=50)
    report = paired_report([asked], settings={})
    assert report["plain"]["accuracy"] == 0
    assert report["difference"]["accuracy"]["estimate"] == 1
    assert headline(report).startswith("POPE: ")


def test_the_first_line_says_what_was_shown() -> None:
    report = both()
    beats = "beats no control in CHAIR_S (bottom heads)"
    first = f"# CHAIR: {report['verdict']}; {beats}; POPE: {report['pope']['verdict']}"
    assert markdown(report).splitlines()[0] == first


def test_markdown_has_what_a_paper_needs() -> None:
    text = markdown(both(failures={"17": "cannot be | read"}), ["curve.png"])
    assert "protocol: held-out, hash `0123abcd`" in text
    assert "  - image_ids: 400 of them" in text
    assert "  - data: instances.json abababababab…" in text
    assert "  - decoding: do_sample False, num_beams 1" in text
    assert "n: 4, 1 not answered" in text
    assert "Punkt data was not found." in text
    assert "| CHAIR_S | 75.0 | 25.0 | -50.0 [" in text
    assert "| oven | oven | 2 | 2 |" in text
    assert "bottom heads" in text
    assert "| +1 | " in text  # the curve's bias
    assert "seed 0" in text
    assert "- 17: cannot be \\| read" in text
    assert "![curve](curve.png)" in text


def test_what_was_shown_comes_first_and_hashes_last() -> None:
    settings = {"weights": "ab" * 32, **SETTINGS}
    text = markdown(paired_report([compare(CHAIR, PLAIN, {"mitigated": MITIGATED}, resamples=20)], settings=settings))
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("#")]
    assert titles[:2] == ["# CHAIR: no difference shown", "CHAIR"]
    assert titles[-3:] == ["Not measured", "Words", "How it was measured"]
    last = text.partition("## How it was measured")[2]
    places = [last.index(one) for one in ("model: mini", "pipeline: chair-2018", "weights: abab", "protocol: held-out")]
    assert places == sorted(places)


def test_the_main_table_comes_first_and_is_text() -> None:
    found = tables(both())
    assert found[0].title == "CHAIR"
    assert [row[0] for row in found[0].rows][:4] == ["CHAIR_S", "CHAIR_I", "CHAIR_I, distinct objects", "recall"]
    assert all(isinstance(cell, str) for table in found for row in table.rows for cell in row)
    assert all(len(row) == len(table.header) for table in found for row in table.rows)


def test_files_and_plots(tmp_path: Path) -> None:
    report = both()
    paths = write_report(tmp_path / "run", report)
    plots = [f"{name}.{kind}" for name in ("invented", "differences", "curve") for kind in ("png", "svg")]
    names = ["report.json", "report.md", "report.tex", *plots]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(names)
    assert json.loads(paths[0].read_text("utf-8")) == json.loads(json.dumps(report))
    for path in paths[3:]:
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" if path.suffix == ".png" else b"<svg" in path.read_bytes()
    assert [path.name for path in write_report(tmp_path / "bare", report, plots=False)] == names[:3]


def test_reports_of_one_run(tmp_path: Path) -> None:
    report = single_report(CHAIR, PLAIN, settings=SETTINGS, failures={"9": "unreadable"})
    low, high = report["intervals"]["chair_s"]
    assert low <= report["chair_s"] <= high
    assert headline(report) == "CHAIR of 4 captions"
    assert [path.name for path in write_report(tmp_path / "a", report)] == [
        "report.json", "report.md", "report.tex", "invented.png", "invented.svg",
    ]  # fmt: skip
    report = single_report(POPE, answers(["yes", "no"]), settings=SETTINGS)
    assert headline(report) == "POPE of 4 answers"
    assert "| accuracy | 50.0 | 50.0 | 50.0 | [" in markdown(report)
    write_report(tmp_path / "b", report)


@pytest.mark.parametrize(
    "make", [lambda: single_report(CHAIR, [], settings={}), lambda: single_report(POPE, [], settings={})]
)
def test_an_empty_run_is_reported_as_undefined(tmp_path: Path, make) -> None:
    write_report(tmp_path, make())
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "undefined" in text


def test_numbers_are_rounded_for_reading_alone() -> None:
    assert CHAIR.show("chair_s", 0.12345) == "12.3"
    assert CHAIR.show("mean_tokens", 96.892) == "96.89"
    assert CHAIR.show("recall", None) == "undefined"
    assert CHAIR.show_estimate("chair_s", {"estimate": -0.05, "low": -0.1, "high": 0.001}) == "-5.0 [-10.0, 0.1]"
    assert CHAIR.show_estimate("recall", {"estimate": None, "low": None, "high": None}) == "undefined"


def test_many_splits_stand_below_one_another() -> None:
    counts = {"right": {"yes": 1, "no": 0}}
    scores = [
        Score(f"{split}/{n}", f"{split}/{n}", {"right": counts["right"][answer], "asked": 1}, split)
        for split in "abcdef"
        for n, answer in enumerate(("yes", "no"))
    ]
    many = replace(
        find_metric("mcq-pope"),
        ratios={"accuracy": Ratio("right", "asked", "nothing is asked")},
        labels={"accuracy": "accuracy"},
        in_splits=("accuracy",),
    )
    found = many.corpus(scores)
    assert columns(many, found) == ["mean"]
    assert cells(many, "accuracy", found) == ["50.0"]
    (table,) = split_tables(many, found)
    assert table.header == ("split", "accuracy")
    assert [row[0] for row in table.rows] == list("abcdef")
    few = many.corpus([score for score in scores if score.split in "abcde"])
    assert columns(many, few) == [*"abcde", "mean"]
    assert split_tables(many, few) == []


def test_a_paired_report_has_one_table_of_many_splits_and_names_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    import vlm_evals.reports.tables as module

    scores = [Score(split, split, {"right": n % 2, "asked": 1}, split) for n, split in enumerate("abcdef")]
    many = replace(
        find_metric("mcq-pope"),
        ratios={"accuracy": Ratio("right", "asked", "nothing is asked")},
        labels={"accuracy": "accuracy"},
        in_splits=("accuracy",),
        tested=None,
        units="pairs",
    )
    monkeypatch.setattr(module, "find_metric", lambda name: many)
    report = paired_report([compare(many, scores, {"mitigated": scores}, resamples=20)], settings={})
    text = markdown(report)
    assert "20 resamples of pairs" in text
    assert "## MCQ-POPE, accuracy by split" in text
    assert "| f | 100.0 | 100.0 | +0.0 [0.0, 0.0] |" in text
    assert "MCQ-POPE, f" not in text
