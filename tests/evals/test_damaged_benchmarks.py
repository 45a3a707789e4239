"""Damaged files of benchmarks: refused by name, whatever stands in them."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vlm_evals.errors import EvaluationError
from vlm_evals.judge import judge
from vlm_evals.tasks import asked_of

from tests.evals.test_benchmark import MADE
from tests.support.damage import damaged

OFTEN = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = {"hallusion": ["HallusionBench.json"], "amber": ["annotations.json", "query_all.json", "relation.json"]}
LINES = {"mcq-pope": ["coco_mcq_random.jsonl"]}
SAID = [{"question_id": 1, "response": "A"}, {"question_id": 2, "response": "B"}]
ANSWERS: dict[str, tuple[Any, Callable[[Path, Path], Any]]] = {
    "hallusion": (
        [
            {
                "category": "VD",
                "subcategory": "chart",
                "set_id": "0",
                "figure_id": "0",
                "question_id": "0",
                "answer": "yes",
            }
        ],
        lambda data, path: judge("hallusion", path, questions=data / "HallusionBench.json"),
    ),
    "amber": ([{"id": 1, "response": "No"}], lambda data, path: judge("amber", path, data=data)),
    "mmvp": (SAID, lambda data, path: judge("mmvp", path, questions=data / "Questions.csv")),
    "mcq-pope": (SAID, lambda data, path: judge("mcq-pope", [path], questions=[data / "coco_mcq_random.jsonl"])),
    "mme": (SAID, lambda data, path: judge("mme", [path], questions=[data])),
}


@pytest.mark.parametrize(
    ("name", "file"), [(name, file) for name, files in {**JSON, **LINES}.items() for file in files]
)
@OFTEN
@given(data=st.data())
def test_questions(tmp_path: Path, name: str, file: str, data: st.DataObject) -> None:
    MADE[name][0](tmp_path)
    text = (tmp_path / file).read_text("utf-8")
    good = [json.loads(line) for line in text.splitlines()] if name in LINES else json.loads(text)
    (tmp_path / file).write_bytes(data.draw(damaged(good, lines=name in LINES)))
    with contextlib.suppress(EvaluationError):
        found = asked_of(name).find_data(tmp_path)
        assert found.shortfall is None or "missing" in found.shortfall
        assert set(asked_of(name).eligible(found)) == set(found.images)
        assert found.hashes()["questions"]


@pytest.mark.parametrize("name", ["mme", "mmvp"])
@OFTEN
@given(content=st.binary(max_size=40) | st.text(alphabet='a1,\t\n"()', max_size=40).map(str.encode))
def test_tables(tmp_path: Path, name: str, content: bytes) -> None:
    MADE[name][0](tmp_path)
    (tmp_path / {"mme": "existence/1.txt", "mmvp": "Questions.csv"}[name]).write_bytes(content)
    with contextlib.suppress(EvaluationError):
        asked_of(name).find_data(tmp_path)
    (tmp_path / "existence.txt").write_bytes(content)
    with contextlib.suppress(EvaluationError):
        judge("mme", [tmp_path / "existence.txt"])


@pytest.mark.parametrize("name", ANSWERS)
@OFTEN
@given(data=st.data())
def test_answers(tmp_path: Path, name: str, data: st.DataObject) -> None:
    good, judged = ANSWERS[name]
    MADE[name][0](tmp_path)
    path = tmp_path / "answers.json"
    path.write_bytes(data.draw(damaged(good)))
    with contextlib.suppress(EvaluationError):
        judged(tmp_path, path)
