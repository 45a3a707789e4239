"""The main job: captions and questions, plain and mitigated, in one report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_the_main_job_reports_captions_and_questions(
    command: Callable[..., Any], untrained_mini: Path, tmp_path: Path
) -> None:
    words = ["--captions", 3, "--questioned", 2, "--with", "vhr:gain=1.5", "--model", untrained_mini]
    printed = command("study", "held-out", *words, "--device", "cpu", "--out", tmp_path).out
    assert "CHAIR_S" in printed
    assert "POPE, mean over splits" in printed
    assert "report.md" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["n"] == 3
    assert report["pope"]["questions"] == 36
    for side in ("plain", "mitigated"):
        assert {"chair_s", "chair_i", "recall", "mean_tokens"} <= report[side].keys()
        assert {"accuracy", "f1", "yes_ratio"} <= report[side]["pope"].keys()
    assert {"estimate", "low", "high"} <= report["difference"]["chair_s"].keys()
    assert {"estimate", "low", "high"} <= report["difference"]["pope"]["accuracy"].keys()
    assert "gain=1.5" in (tmp_path / "report.md").read_text()
