"""The study of how well models see: what it counts, and that it goes on where it stopped."""

import json
from types import SimpleNamespace

import pytest
from vlm_app.studies.grounding import _shuffled, grounding, table
from vlm_evals.records import Score

DATA = SimpleNamespace(objects={1: {"dog", "cat"}, 2: {"cup"}, 3: {"dog"}})


def test_shuffled_holds_each_caption_against_the_next_picture():
    """Said dog | cup, dog | dog, cup; next pictures show cup | dog | dog, cat: 0 + 1 + 1 of 1 + 1 + 2 objects."""
    said = {1: ["dog"], 2: ["cup", "dog"], 3: ["dog", "cup"]}
    scores = [Score(str(key), str(key), {}, evidence={"mentions": mentions}) for key, mentions in said.items()]
    assert _shuffled(scores, DATA) == pytest.approx(2 / 4)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("grounding")
    ask = {"split": "held-out", "captions": 8, "questioned": 2, "seed": 7, "device": "cpu"}
    return out, ask, grounding(out, models=["mini"], **ask)


def test_a_model_is_measured_on_captions_and_questions(measured):
    out, _, found = measured
    model = found["models"]["1. mini"]
    assert model["recall"] > 0.5 > model["shuffled"]
    assert [*model["questions"]] == ["random", "popular", "adversarial"]
    assert "language" not in model  # mini has no base
    assert json.loads((out / "grounding.json").read_text()) == found
    assert "| recall | " in (out / "grounding.md").read_text()


def test_it_asks_nothing_twice(measured):
    out, ask, found = measured
    answers = out / "1" / "chair" / "plain" / "answers.jsonl"
    before = answers.read_bytes()  # with the seconds that each answer took
    assert grounding(out, models=["mini"], **ask) == found
    assert answers.read_bytes() == before


def test_a_table_has_a_column_per_model_and_gaps_where_nothing_was_measured():
    both = {"recall": 0.8, "shuffled": 0.1, "chair_s": 0.25, "chair_i": 0.1, "chair_i_distinct": 0.1}
    lines = table({"models": {"1. a": both, "2. b": both | {"language": {"perplexity": 30.0, "ratio": 1.2}}}})
    assert lines.splitlines()[0] == "|  | 1. a | 2. b |"
    assert "| CHAIR_S | 25.0 | 25.0 |" in lines
    assert "| the same over the base's |  | 1.20 |" in lines
