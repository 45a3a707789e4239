"""What is found out about a model: recall of pictures, its own and another's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlm_app.studies.findings import FirstMention, auc_with_interval, recall, recalls
from vlm_evals.errors import EvaluationError
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


def test_faithful_mentions_alone_have_no_auc() -> None:
    mentions = [FirstMention(0, invented=False, t_vhd=1.0, probability=0.5, position=2)]
    with pytest.raises(EvaluationError, match="0 of 1 mentions are invented: give more --images"):
        auc_with_interval(mentions, "t_vhd", seed=7)


@pytest.mark.slow
def test_what_was_found_is_printed_and_kept(command: Callable[..., Any], tmp_path: Path) -> None:
    found = command("study", "findings", "--images", 12, "--out", tmp_path, "--json").value
    assert found == json.loads((tmp_path / "findings.json").read_text())
    assert (found["images"], len(found["heads"])) == (12, len(found["sinks"]))
    assert found["auc"]["t_vhd"]["low"] <= found["auc"]["t_vhd"]["auc"] <= found["auc"]["t_vhd"]["high"]
