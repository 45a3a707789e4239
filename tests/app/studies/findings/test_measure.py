"""What is found out about a model: recall of pictures, its own and another's, and the command that measures all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlm_app.studies.findings.captions import greedy_captions, recall, recalls
from vlm_app.studies.findings.measure import rounded
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.world import Scene, scenes

from tests.support.command import Mistake
from vlm_heads import VLM


@pytest.fixture(scope="module")
def vlm() -> VLM:
    """The embedded model, loaded once."""
    return VLM.from_pretrained("mini")


@pytest.fixture(scope="module")
def pictures() -> list[Scene]:
    """Held-out scenes."""
    return list(scenes("held-out", 7, 12))


def test_recall_counts_objects_over_all_scenes() -> None:
    """2 of {dog, cat} and 0 of {bus, car, person}: 2 of 5; against each other's scene none but the cat: 1 of 5."""
    said = [{"dog", "cat", "bench"}, {"cat"}]
    assert recall(said, [{"dog", "cat"}, {"bus", "car", "person"}]) == pytest.approx(2 / 5)
    assert recall(said, [{"bus", "car", "person"}, {"dog", "cat"}]) == pytest.approx(1 / 5)


def test_the_embedded_model_looks_at_its_picture(vlm: VLM, pictures: list[Scene]) -> None:
    found = recalls(greedy_captions(vlm, pictures), pictures)
    assert found["own"] > found["shuffled"] + 0.2


def test_captions_are_what_the_model_answers_with_the_chance_of_every_token(vlm: VLM, pictures: list[Scene]) -> None:
    done: list[int] = []
    captions = greedy_captions(vlm, pictures[:3], done.append)
    assert sum(done) == 3
    for caption, scene in zip(captions, pictures, strict=False):
        inputs = vlm.inputs([scene.image], DESCRIBE)
        output = vlm.model.generate(
            **inputs, max_new_tokens=128, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        assert [*caption.ids] == ids[:-1]  # without the end
        chances = [float(step[0].softmax(-1)[token]) for step, token in zip(output.logits, ids, strict=True)]
        assert [*caption.chances] == pytest.approx(chances[:-1], abs=1e-4)
        assert caption.text == vlm.processor.tokenizer.decode(caption.ids, skip_special_tokens=True).strip()


def test_numbers_are_cut_to_what_can_be_read() -> None:
    assert rounded({"a": [1 / 3, 12345678.9, 7], "b": None, "c": True}) == {
        "a": [0.33333, 12346000, 7],
        "b": None,
        "c": True,
    }


@pytest.mark.slow
def test_what_was_found_is_printed_and_kept(command: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    words = ("--images", 12, "--out", tmp_path / "run", "--also", "mini", "--write", page, "--json")
    found = command("study", "findings", *words).value
    assert found == json.loads((tmp_path / "run" / "findings.json").read_text())
    assert found == json.loads((tmp_path / "docs" / "findings" / "mini.json").read_text())
    assert (found["images"], len(found["heads"])) == (12, len(found["sinks"]))
    assert found["auc"]["t_vhd"]["low"] <= found["auc"]["t_vhd"]["auc"] <= found["auc"]["t_vhd"]["high"]
    assert found["stability"]["trainings"] == [{"model": "mini", "all": 1.0, "within_layers": 1.0}]
    assert "## `mini`" in page.read_text("utf-8")
    assert str(tmp_path) not in page.read_text("utf-8") + json.dumps(found)


def test_another_training_that_is_not_there_is_told_first(mistake: Mistake, tmp_path: Path) -> None:
    assert "did you mean 'mini'" in mistake("study", "findings", "--also", "mimi", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_page_of_nothing_is_refused_in_one_line(mistake: Mistake, tmp_path: Path) -> None:
    assert "measure a model with" in mistake("study", "findings-page", tmp_path / "page.md")
    assert "holds no findings.json" in mistake("study", "findings-page", tmp_path / "page.md", tmp_path)
    assert list(tmp_path.iterdir()) == []
