"""The planted model, whose heads are known: every measure finds the ones that see, and the ones that invent."""

import numpy as np
from numpy.typing import NDArray
from vlm_app.studies.heads.answers import strongest
from vlm_app.studies.heads.blocks import Block
from vlm_app.studies.heads.effects import effects
from vlm_app.studies.heads.measure import summary

from vlm_heads.models.planted import NEGATIVE_HEAD, PRIOR_HEADS, VISION_HEADS


def _highest(scores: NDArray[np.float64], count: int) -> set[tuple[int, int]]:
    order = np.argsort(-scores, axis=None)[:count]
    return {(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, scores.shape), strict=True)}


def test_every_measure_finds_the_heads_that_see(planted: Block) -> None:
    planted.measure()
    found = effects([planted.found()], layers=range(4), seed=7)
    assert dict(found.counts) == {
        "faithful": 4, "invented": 4, "present": 0, "absent": 0, "grounding": 4, "discernment": 0,
    }  # fmt: skip
    scores = {
        "ablation": -found.changes["ablation", "faithful"][0],
        "doubling": found.changes["doubling", "faithful"][0],
        "the image's route": found.told["image", "faithful"][0],
        "grounding": -found.changes["ablation", "grounding"][0],
        "image mass": found.looks["image_mass"][0],
    }
    for name, score in scores.items():
        assert _highest(score, len(VISION_HEADS)) == VISION_HEADS, name
    # the head that says the prior's word louder without an image is as sensitive to it as those that see
    assert _highest(found.looks["vhd"][0], 5) == VISION_HEADS | {NEGATIVE_HEAD}


def test_inventions_lean_on_the_prior_and_come_from_text(planted: Block) -> None:
    planted.measure()
    found = effects([planted.found()], layers=range(4), seed=7)
    inventing = PRIOR_HEADS | {NEGATIVE_HEAD}
    assert _highest(-found.changes["ablation", "invented"][0], 5) == inventing
    assert {(one["layer"], one["head"]) for one in strongest(found)["invents"]} == inventing
    assert _highest(found.told["text", "invented"][0], 5) == inventing
    whole = {route: found.told[route, "invented"][0].sum() for route in ("image", "text")}
    assert whole["image"] < 0 < whole["text"]


def test_idle_heads_change_nothing_at_all(planted: Block) -> None:
    planted.measure()
    found = planted.found()
    idle = {(layer, head) for layer in range(4) for head in range(4)} - VISION_HEADS - PRIOR_HEADS - {NEGATIVE_HEAD}
    for gain in ("ablation", "doubling"):
        changes = np.array(found[gain])
        assert all((changes[layer, head] == 0).all() for layer, head in idle)
        assert all((changes[layer, head] != 0).any() for layer, head in VISION_HEADS)


def test_reinforcing_what_sees_helps_as_the_paper_says(planted: Block) -> None:
    """With what sees doubled at once, faithful words gain and inventions lose; with the least aware, the reverse."""
    planted.measure()
    whole = summary(effects([planted.found()], layers=range(2, 4), seed=7))["together"]["doubling"]
    assert whole["upper"]["at once"]["faithful"]["low"] > 0 > whole["upper"]["at once"]["invented"]["high"]
    assert whole["lower"]["at once"]["faithful"]["high"] <= 0
