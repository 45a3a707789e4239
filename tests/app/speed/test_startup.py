"""What a whole call costs is measured beside a Python that does nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlm_app.speed.startup import bench_processes
from vlm_evals.errors import EvaluationError


def test_whole_calls_are_timed_beside_a_bare_one(command: Callable[..., Any]) -> None:
    found = command("bench", "judge", "--process", "--captions", 3, "--rounds", 1, "--json").value
    assert found["bare_seconds"] > 0
    assert list(found["calls"]) == ["vlm-heads --help", "vlm-heads judge --help", "vlm-heads judge chair"]
    for call in found["calls"].values():
        assert call["ratio"] == pytest.approx(call["seconds"] / found["bare_seconds"])
    assert found["captions"] == "3 made"


def test_a_call_that_fails_is_not_timed(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="there is no such file"):
        bench_processes((tmp_path / "gone.jsonl", tmp_path / "gone.json"), rounds=1)


def test_files_go_with_process(mistake: Callable[..., str]) -> None:
    assert "--process" in mistake("bench", "judge", "--file", "captions.jsonl")
    assert "belong together" in mistake("bench", "judge", "--process", "--truth", "index.json")
