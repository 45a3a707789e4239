"""The trainings on a GPU take the steps that they take on a CPU, up to rounding."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from vlm_evals.scenes.small.train import train_small
from vlm_evals.scenes.small.weights import read_weights
from vlm_evals.scenes.train import STAGES, TrainingRecipe, train_stage

from tests.support.small_base import RECIPE, tiny_parts

ONE_STEP = TrainingRecipe(words=4, tower=8, projector=8, reading=4, joint=4, finish=4, batch=4)
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def trained(name: str, out: Path, device: str) -> dict[str, torch.Tensor]:
    """Return what one step of a stage changes, and its losses."""
    out.mkdir()
    said: dict[str, float] = {}
    train_stage(name, (), 0, ONE_STEP, out, lambda *report: said.update(report[3]), device)
    changed: dict[str, torch.Tensor] = load_file(out / f"stage-{name}.safetensors")
    return changed | {f"loss {key}": torch.tensor(value) for key, value in said.items()}


@pytest.mark.parametrize("name", STAGES)
def test_a_step_changes_its_own_part_alone(name: str, tmp_path: Path) -> None:
    changed = trained(name, tmp_path / "out", "cpu")
    assert any(key.startswith("loss") for key in changed)
    in_tower = ["vision_tower" in key for key in changed if not key.startswith("loss")]
    assert in_tower
    assert all(in_tower) if name == "tower" else not any(in_tower)


@pytest.mark.parametrize("name", [pytest.param(name, marks=on_gpu) for name in STAGES])
def test_a_stage_takes_the_same_step_on_a_gpu(name: str, tmp_path: Path) -> None:
    expected, found = (trained(name, tmp_path / device, device) for device in ("cpu", "cuda"))
    assert found.keys() == expected.keys()
    for key in (key for key in expected if key.startswith("loss")):
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_gpu)])
def test_small_trains_on_a_gpu_as_on_a_cpu(device: str, tmp_path: Path) -> None:
    recipe = replace(RECIPE, rows=4)
    expected, found = (
        read_weights(train_small(recipe, tmp_path / where, tiny_parts, device=where)) for where in ("cpu", device)
    )
    for part in ("projector", "adapters"):
        for name, weight in getattr(expected, part).items():
            torch.testing.assert_close(getattr(found, part)[name], weight, rtol=0.05, atol=2e-3)
