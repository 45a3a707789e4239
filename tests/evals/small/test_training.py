"""The training of `small`: seeded, resumable after a kill, and the same weights either way, bit for bit."""

import json
import multiprocessing
import signal
from dataclasses import replace

import pytest
from vlm_evals.errors import FileFormatError, RunError
from vlm_evals.scenes.small.learner import fit_projector, new_learner
from vlm_evals.scenes.small.recipe import SmallRecipe, faster_dtype, settled
from vlm_evals.scenes.small.train import train_small
from vlm_evals.scenes.small.weights import read_weights

from tests.support.small_base import RECIPE, tiny_parts, train_and_die


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a training that nothing interrupted, and the counts that it reported."""
    out = tmp_path_factory.mktemp("trained")
    counts = []
    train_small(RECIPE, out, tiny_parts, advance=counts.append)
    return out, counts


def test_a_training_reports_every_step_and_leaves_its_quarters(trained):
    out, counts = trained
    assert counts == [0, *[1] * RECIPE.steps]
    assert sorted(path.name for path in out.iterdir()) == [
        "log.jsonl", "recipe.json", "texts.safetensors", "weights-10.safetensors", "weights-4.safetensors",
        "weights-6.safetensors", "weights.safetensors",
    ]  # fmt: skip
    facts = read_weights(out).facts
    assert (facts["seed"], facts["rows"], facts["frozen"]) == ("3", "12", "float32")


@pytest.mark.parametrize("steps", [1, 4])
def test_a_killed_training_ends_with_the_same_bytes(trained, tmp_path, steps):
    process = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(str(tmp_path), steps))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (tmp_path / ".part-left").write_bytes(b"half a state")
    assert not (tmp_path / "weights.safetensors").exists()
    counts = []
    train_small(RECIPE, tmp_path, tiny_parts, advance=counts.append)
    assert counts[0] == max(steps - 1, 0)  # the step that was being reported had not been saved
    assert sum(counts) == RECIPE.steps
    for name in ("weights-10.safetensors", "weights.safetensors"):
        assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()
    assert not list(tmp_path.glob(".part-*"))


def test_another_seed_gives_other_weights(trained, tmp_path):
    train_small(replace(RECIPE, seed=4), tmp_path, tiny_parts)
    assert (tmp_path / "weights.safetensors").read_bytes() != (trained[0] / "weights.safetensors").read_bytes()


def test_what_is_done_is_not_done_again(trained):
    def never():
        raise AssertionError("the base was loaded")

    assert train_small(RECIPE, trained[0], never) == trained[0] / "weights.safetensors"


def test_a_folder_of_another_training_is_refused(trained):
    with pytest.raises(RunError, match="holds a training with seed 3"):
        train_small(replace(RECIPE, seed=5), trained[0], tiny_parts)


def test_a_recipe_is_settled_once(tmp_path):
    chosen = settled(SmallRecipe(seed=1), tmp_path)
    assert chosen.frozen in ("float32", "bfloat16")
    assert settled(SmallRecipe(seed=1), tmp_path) == chosen
    other = {"float32": "bfloat16", "bfloat16": "float32"}[chosen.frozen]
    with pytest.raises(RunError, match=chosen.frozen):
        settled(SmallRecipe(seed=1, frozen=other), tmp_path)
    (tmp_path / "recipe.json").write_text('{"sead": 1}')
    with pytest.raises(FileFormatError, match="no recipe of 'small'"):
        settled(SmallRecipe(seed=1), tmp_path)


def test_the_faster_dtype_is_one_of_two():
    assert faster_dtype() in ("float32", "bfloat16")


def test_the_log_forgets_steps_that_are_taken_again(tmp_path):
    recipe = replace(RECIPE, rows=24)
    (tmp_path / "log.jsonl").write_text('{"step": 10, "loss": 99.0, "seconds": 1.0}\n')
    train_small(recipe, tmp_path, tiny_parts)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10]
    assert lines[0]["loss"] < 99


def test_fitting_brings_the_projector_near_the_words():
    errors = [fit_projector(new_learner(replace(RECIPE, fitting=steps), *tiny_parts()), replace(RECIPE, fitting=steps))
              for steps in (1, 6)]  # fmt: skip
    assert errors[1] < 0.7 * errors[0]
