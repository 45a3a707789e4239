"""Gains proposed from scores: worked by hand."""

import pytest
import torch

from tests.support.compare import distance, equal, rounding
from vlm_heads import HeadProfile
from vlm_heads.errors import BadOption
from vlm_heads.profiles.gain_proposals import propose_gains

SCORES = torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0], [1.0, 1.0, 2.0, 3.0, 3.0], [0.0] * 5])


def test_top_heads_get_the_strength() -> None:
    gains = propose_gains(HeadProfile(SCORES), 1.5, (0, 1, 2), "top").gains
    assert gains is not None
    # above the medians 3 and 2; a layer without scores is left alone
    assert gains.tolist() == [[1.5, 1, 1, 1, 1.5], [1, 1, 1, 1.5, 1.5], [1] * 5]


def test_graded_gains_take_from_some_and_give_to_others() -> None:
    gains = propose_gains(HeadProfile(SCORES), 4.0, (0, 1, 2), "graded").gains
    assert gains is not None
    # ranks of layer 0 from -1 to 1 in steps of a half: 4, 1, 3, 2, 5 -> 0.5, -1, 0, -0.5, 1
    assert gains[0].tolist() == [2.0, 0.25, 1.0, 0.5, 4.0]
    # two share the places 0 and 1, so 0.5 of 4 -> -0.75; one is in the middle; two share 3 and 4 -> 0.75
    exponents = torch.tensor([-0.75, -0.75, 0.0, 0.75, 0.75])
    assert distance(gains[1].log2() / 2, exponents) < rounding(torch.float32, terms=5)
    assert gains[1, 2] == 1.0
    assert gains[2].tolist() == [1.0] * 5
    assert distance(gains[0].log().sum(), torch.tensor(0.0)) < 1e-8


def test_layers_left_out_keep_gain_one_and_the_scores_stay() -> None:
    profile = HeadProfile(SCORES, model_type="llava", samples=3)
    proposed = propose_gains(profile, 0.5, (1,))
    assert proposed.gains is not None
    assert proposed.gains[0].tolist() == [1.0] * 5
    assert proposed.gains[1, 3] < 1 < proposed.gains[1, 0]  # below one, the aware are damped
    assert equal(proposed.scores, profile.scores)
    assert (proposed.model_type, proposed.samples) == ("llava", 3)
    ones = propose_gains(profile, 1.0, (0, 1)).gains
    assert ones is not None
    assert bool((ones == 1).all())


def test_a_head_that_surges_without_the_image_is_left_out() -> None:
    scores, surges = torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0]]), torch.tensor([[9.0, 1.0, 1.0, 1.0, 1.0]])
    with_surges = propose_gains(HeadProfile(scores, surges), 2.0, (0,), "top").gains
    without = propose_gains(HeadProfile(scores), 2.0, (0,), "top").gains
    assert with_surges is not None
    assert without is not None
    assert (with_surges[0, 0].item(), without[0, 0].item()) == (1.0, 2.0)


@pytest.mark.parametrize("wrong", [{"strength": 0.0}, {"strength": -1.0}, {"strength": 2.0, "shape": "flat"}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadOption):
        propose_gains(HeadProfile(SCORES), layers=(0,), **wrong)
