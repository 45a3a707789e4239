"""The example of a metric of one's own: short, right, and a command when a package brings it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAID = ["A dog, perhaps.", "It might possibly be a cat.", "A car.", "Two people stand there."]


def run(*words: object, more: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python with further folders on its path."""
    path = os.pathsep.join([*map(str, more), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=False, env=environment
    )


def test_it_is_short(repository: Path) -> None:
    assert len((repository / "examples" / "new_metric.py").read_text().splitlines()) <= 40


@pytest.fixture
def toy(repository: Path, tmp_path: Path) -> tuple[Path, ...]:
    """Folders that make an installed package of the example: its module, and the entry points beside it."""
    about = tmp_path / "toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    broken = "broken = no_such_module:METRIC\n"
    (about / "entry_points.txt").write_text(f"[vlm_evals.metrics]\ntoy = new_metric:TOY\n{broken}")
    (tmp_path / "answers.jsonl").write_text(
        "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(SAID))
    )
    return repository / "examples", tmp_path


def test_a_metric_from_outside_is_a_command(toy: tuple[Path, ...]) -> None:
    # 2 of 4 answers hedge, with 1 and 2 hedges: 2/4 and 3/4; with two or more, 1 of 4
    answers = toy[1] / "answers.jsonl"
    found = run("-m", "vlm_app.cli", "judge", "toy", answers, "--json", more=toy)
    assert (found.returncode, found.stderr) == (0, "")
    value = json.loads(found.stdout)
    assert (value["hedging"], value["hedges"], value["fewest"]) == (2 / 4, 3 / 4, 1)
    assert value["counts"] == {"answers": 4, "hedging": 2, "hedges": 3}
    assert value["files"] == {"file": ["answers.jsonl"]}
    strict = run("-m", "vlm_app.cli", "judge", "toy", answers, "--fewest", 2, "--json", more=toy)
    assert json.loads(strict.stdout)["hedging"] == 1 / 4
    table = run("-m", "vlm_app.cli", "judge", "toy", answers, more=toy)
    assert "Hedging of answers.jsonl" in table.stdout
    assert "50.0" in table.stdout
    assert "0.75" in table.stdout


def test_it_is_listed_and_a_broken_one_beside_it_is_named(toy: tuple[Path, ...]) -> None:
    listed = run("-m", "vlm_app.cli", "judge", "--help", more=toy)
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in ("chair", "pope", "toy", "Count hedges in answers."))
    (line,) = listed.stderr.splitlines()
    assert "the metric 'broken' of toy cannot be loaded" in line
    asked = run("-m", "vlm_app.cli", "eval", "toy", more=toy)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "vlm-heads judge toy" in asked.stderr
    mistyped = run("-m", "vlm_app.cli", "judge", "tyo", "x", more=toy)
    assert mistyped.returncode == 2
    assert "did you mean 'toy'" in mistyped.stderr
