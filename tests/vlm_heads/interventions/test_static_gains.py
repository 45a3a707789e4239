"""Static gains against plain hooks on the output projections, and who gets them."""

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance, same_ids
from tests.support.families import CLOSE, Tiny
from tests.support.static_heads import hooked
from vlm_heads import HeadProfile, StaticGains, attach, parse_intervention
from vlm_heads.errors import BadOption, NothingIntervened

GAINS = torch.tensor([[1.0, 0.3, 2.0, 1.0], [1.0] * 4, [1.7, 1.0, 0.0, 1.1]])


def _profile(gains: Tensor | None = GAINS) -> HeadProfile:
    return HeadProfile(scores=torch.zeros(3, 4), gains=gains)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_every_head_is_multiplied_by_its_own_gain(backend: str, model: Tiny) -> None:
    with hooked(model, GAINS):
        expected = model.generate()
    with attach(model.model, [StaticGains()], profile=_profile(), backend=backend) as run:
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert run.receipt.blind_passes == 0
    assert run.receipt.interventions[0].heads() == {0: [0, 1, 1, 0], 2: [1, 0, 1, 1]}
    with hooked(model, GAINS.roll(1, dims=1)):  # empty if a gain on the wrong head could not be seen
        wrong = model.generate()
    assert distance(expected.logits[0], wrong.logits[0]) > 1e-2


def test_strength_is_an_exponent(model: Tiny) -> None:
    with hooked(model, GAINS**0.5):
        expected = model.generate()
    with attach(model.model, [StaticGains(strength=0.5)], profile=_profile()):
        assert distance(expected, model.generate()) < CLOSE


def test_gains_are_written_in_one_word(model: Tiny) -> None:
    written = parse_intervention("reinforced:gains=0.1:0.3+0.2:2+-1.0:1.7+2.2:0+2.3:1.1")
    with attach(model.model, [StaticGains()], profile=_profile()):
        expected = model.generate()
    with attach(model.model, [written]):
        assert distance(expected, model.generate()) == 0.0
    with attach(model.model, [StaticGains(layers=(0,))], profile=_profile()) as run:
        model.generate()
    assert run.receipt.interventions[0].layers == (0,)


def test_a_prompt_without_an_image_is_left_alone(model: Tiny) -> None:
    """What a folded checkpoint cannot do."""
    text = {"input_ids": torch.tensor([[1, 5, 6, 7, 8]])}
    plain = model.model.generate(**text, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    with attach(model.model, [StaticGains()], profile=_profile(), allow_idle=True):
        got = model.model.generate(**text, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    assert same_ids(plain, got)


@pytest.mark.parametrize("profile", [None, _profile(None)])
def test_it_insists_on_gains(profile: HeadProfile | None, model: Tiny) -> None:
    with pytest.raises(BadOption, match="calibrate"), attach(model.model, [StaticGains()], profile=profile):
        raise AssertionError("nothing may run")


def test_gains_that_are_all_one_never_fire(model: Tiny) -> None:
    ones = _profile(torch.ones(3, 4))
    with pytest.raises(NothingIntervened), attach(model.model, [StaticGains()], profile=ones):
        model.generate(steps=1)


@pytest.mark.parametrize(
    "gains", ["loud", "0.1", "0.1:", "0.1:x", "0.1:-2", "", ((0, 0, -1.0),), ((0, 0, float("nan")),)]
)
def test_a_list_that_cannot_be_read_is_refused(gains: object) -> None:
    with pytest.raises(BadOption, match="gains"):
        StaticGains(gains=gains)


@pytest.mark.parametrize("gains", ["3.0:2", "0.4:2", "-4.0:2"])
def test_a_head_outside_the_model_is_refused(gains: str, model: Tiny) -> None:
    with pytest.raises(BadOption, match="not in a model"), attach(model.model, [StaticGains(gains=gains)]):
        raise AssertionError("nothing may run")
