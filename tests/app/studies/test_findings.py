"""What is found out about a model: recall of pictures, its own and another's."""

import pytest
from vlm_app.studies.findings import recall, recalls
from vlm_evals.scenes.world import scenes

from vlm_heads import VLM


def test_recall_counts_objects_over_all_scenes() -> None:
    """2 of {dog, cat} and 0 of {bus, car, person}: 2 of 5; against each other's scene none but the cat: 1 of 5."""
    said = [{"dog", "cat", "bench"}, {"cat"}]
    assert recall(said, [{"dog", "cat"}, {"bus", "car", "person"}]) == pytest.approx(2 / 5)
    assert recall(said, [{"bus", "car", "person"}, {"dog", "cat"}]) == pytest.approx(1 / 5)


def test_the_embedded_model_looks_at_its_picture() -> None:
    found = recalls(VLM.from_pretrained("mini"), list(scenes("held-out", 7, 12)))
    assert found["own"] > found["shuffled"] + 0.2
