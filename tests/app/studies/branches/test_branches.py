"""What is lost where the image is hidden from a layer on: from known losses to figures, sentences and a page."""

from pathlib import Path
from typing import Any

import pytest
from vlm_app.studies.branches.measure import measure_branches
from vlm_app.studies.branches.page import branches_block, sentences, write_branches
from vlm_app.studies.branches.summary import summary
from vlm_evals.errors import TaskError

ABOUT = {"model": "made", "weights": "0", "seed": 7, "split": "validation", "scenes": 2, "layers": 4, "weight": 0.25}


@pytest.fixture
def found() -> dict[str, Any]:
    """Four layers, two scenes. Faithful mentions lose 4, 3, 1 and 0 nats; the invented one 2, 0, 1 and 0."""
    kinds = ["faithful", "faithful", "invented", "other", "other"]
    places = [{"kind": kind, "scene": scene} for scene in (0, 1) for kind in kinds]
    lost = [[*row, *row] for row in ([5, 3, 2, 1, 1], [4, 2, 0, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0])]
    changed = [[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    return {"about": ABOUT} | summary([{"places": places, "lost": lost, "changed": changed}], 4, seed=1)


def test_the_figures_are_means_and_the_auc_is_a_share_of_pairs(found: dict[str, Any]) -> None:
    assert found["counts"] == {"faithful": 4, "invented": 2, "present": 0, "absent": 0, "other": 4}
    first, second, third, last = found["starts"]
    assert [row["faithful"]["estimate"] for row in found["starts"]] == [4.0, 3.0, 1.0, 0.0]
    assert first["invented"]["estimate"] == 2.0
    assert first["changed"] == 0.5
    assert (first["auc"]["estimate"], third["auc"]["estimate"], last["auc"]["estimate"]) == (1.0, 0.5, 0.5)
    assert second["auc"] == {"estimate": 1.0, "low": 1.0, "high": 1.0}
    assert first["present"] is None


def test_the_sentences_follow_the_figures(found: dict[str, Any]) -> None:
    said = " ".join(sentences(found))
    assert "a faithful first mention loses 4.00 [4.00, 4.00] nats and an invented one 2.00 [2.00, 2.00]" in said
    # at layer 2 a faithful mention still loses 1 of 4 nats: three quarters are kept
    assert "hidden from layer 2 of 4 on, 75% of what it gives to faithful mentions is left" in said
    assert (
        "best where it is hidden in all layers: AUC 1.00 [1.00, 1.00], against 0.50 [0.50, 0.50] from layer 2" in said
    )
    assert "these shares of the other words: 50.0% from layer 0, 0.0% from layer 2" in said


def test_the_page_keeps_what_stands_around_the_block(found: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "effect.md"
    page.write_text(
        "Before.\n<!-- branches-made: written by a program, from here -->\n<!-- branches-made: to here -->\n"
    )
    written = write_branches(page, found)
    assert all(path.is_file() for path in written)
    assert page.read_text().startswith("Before.")
    assert "| hidden from layer | faithful mention (4) |" in page.read_text()
    assert branches_block(found) in page.read_text()


def test_a_run_is_measured_kept_and_not_mixed_with_another(tmp_path: Path) -> None:
    ask = {"model": "mini", "images": 4, "device": "cpu"}
    found = measure_branches(tmp_path, seed=7, **ask)
    assert len(found["starts"]) == 8
    first, last = found["starts"][0], found["starts"][-1]
    assert first["faithful"]["estimate"] > 1.0 > last["faithful"]["estimate"]
    kept = (tmp_path / "scenes-0000-0004.json").read_bytes()
    assert measure_branches(tmp_path, seed=7, **ask) == found
    assert (tmp_path / "scenes-0000-0004.json").read_bytes() == kept
    with pytest.raises(TaskError, match="holds a run of seed 7, not 8"):
        measure_branches(tmp_path, seed=8, **ask)
