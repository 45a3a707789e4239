"""Families that mix linear attention or short convolutions with attention: only real attention has heads."""

import copy

import pytest
import torch
from torch import nn

from tests.support.compare import distance, equal, same_ids
from tests.support.families import Build, Tiny
from tests.vlm_heads.test_contrast import CLOSE_SCORES, Uncached, generated, made
from vlm_heads import (
    HeadProfile,
    HeadReinforcement,
    NoisedImage,
    StaticGains,
    TextBoundHeads,
    attach,
    errors,
    fold_gains,
)
from vlm_heads.attached.two_streams import both_streams
from vlm_heads.families import examine
from vlm_heads.toolkit.image_changes import diffused

MIXED = ("qwen3_5", "lfm2_vl")


@pytest.fixture(params=MIXED)
def mixed(request: pytest.FixtureRequest, tiny: Build) -> Tiny:
    """A tiny model whose second layer alone is an attention."""
    return tiny(request.param)


def test_only_real_attention_is_taken_for_one(mixed: Tiny) -> None:
    anatomy = examine(mixed.model)
    assert anatomy.attentions.keys() == anatomy.projections.keys() == {1}
    assert type(anatomy.attentions[1]).__name__.endswith("Attention")
    sighted, blind = both_streams(mixed.model, anatomy, mixed.inputs)
    assert sighted.outputs.keys() == blind.outputs.keys() == {1}


@pytest.mark.parametrize("where", [0, -1])
def test_gains_where_there_are_no_heads_are_refused_attached_and_folded(where: int, mixed: Tiny) -> None:
    gains = torch.ones(3, 4)
    gains[where, 2] = 3.0
    before = copy.deepcopy(mixed.model.state_dict())
    with pytest.raises(errors.BadOption, match=f"layer {where} has no attention heads"):
        attach(mixed.model, StaticGains(gains=((where, 2, 3.0),)))
    profile = HeadProfile(torch.zeros(3, 4), gains=gains)
    with pytest.raises(errors.BadProfile, match="no self-attention"):
        attach(mixed.model, StaticGains(), profile=profile)
    with pytest.raises(errors.BadProfile, match="no self-attention"):
        fold_gains(mixed.model, gains)
    assert all(torch.equal(value, before[name]) for name, value in mixed.model.state_dict().items())


@pytest.mark.parametrize("layers", [0, (0, 2), (0, 1), -1])
def test_layers_without_heads_that_are_named_are_refused(layers: int | tuple[int, ...], mixed: Tiny) -> None:
    with pytest.raises(errors.BadOption, match="has no attention heads; layers that have: 1"):
        attach(mixed.model, HeadReinforcement(layers=layers))
    with pytest.raises(errors.BadOption, match="layer 0 has no attention heads; layers that have: 1"):
        attach(mixed.model, TextBoundHeads(heads=((0, 1),)))


def test_a_set_of_layers_is_those_of_it_with_heads(mixed: Tiny) -> None:
    with attach(mixed.model, HeadReinforcement(layers="all")) as run:
        mixed.generate()
    assert run.receipt.interventions[0].layers == (1,)


def test_a_contrast_follows_its_beams(mixed: Tiny) -> None:
    """A linear attention's states are put in order with the beams too."""
    torch.nn.init.zeros_(mixed.model.get_output_embeddings().weight[150:151])  # no image token in the answer
    noised = {**mixed.inputs, "pixel_values": diffused(mixed.inputs["pixel_values"], 999, 0)}
    options = {"num_beams": 2, "num_return_sequences": 2, "suppress_tokens": [150]}
    processor = made(NoisedImage(noise_step=999, bound=0.0), mixed.model, mixed.inputs)
    got = generated(mixed.model, mixed.inputs, processor, **options)
    expected = generated(mixed.model, mixed.inputs, Uncached(mixed.model, noised), **options)
    assert same_ids(expected, got)
    assert distance(expected.sequences_scores, got.sequences_scores) < CLOSE_SCORES


class _OwnAttention(nn.Module):
    """An attention that asks nobody."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.o_proj = nn.Linear(64, 64)


def test_an_attention_beside_the_interface_is_no_mixer(tiny: Build) -> None:
    """The config says which layers are attentions; one of those that asks nobody is not passed over."""
    gemma = tiny("gemma3")
    gemma.decoder_layers[1].self_attn = _OwnAttention(1)
    with pytest.raises(errors.UnsupportedModel, match="_OwnAttention computes attention on its own"):
        examine(gemma.model)


def test_gates_are_left_to_the_model(tiny: Build) -> None:
    """Gaining a head before its gate or after it is the same: folded is attached, to the bit."""
    qwen = tiny("qwen3_5")
    with attach(qwen.model, StaticGains(gains=((1, 0, 4.0), (1, 3, 0.25)))):
        attached = qwen.generate()
    gains = torch.ones(3, 4)
    gains[1, 0], gains[1, 3] = 4.0, 0.25
    fold_gains(qwen.model, gains)
    assert equal(qwen.generate(), attached)
