"""The example of a scorer of one's own: it runs, and it is right on the planted model."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "new_scorer.py"


def test_it_scores_the_planted_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Heads that attend to a mark elsewhere give their own position nothing; idle ones give all keys the same."""
    found = runpy.run_path(str(EXAMPLE), run_name="__main__")
    word, *best = capsys.readouterr().out.split(" ", 1)
    assert word == "reach"
    assert best[0].count(": 1.00") == 3
    profile = found["profile"]
    keys = 1 / (1 - profile.scores[0, 0].item())
    assert keys == pytest.approx(round(keys), abs=1e-2)
    assert keys > 16
