"""Sink channels: discovery on a model with planted ones, and the table."""

import pytest
import torch

from tests.support.families import Build
from vlm_heads.errors import NoSinks
from vlm_heads.families import Anatomy, examine
from vlm_heads.toolkit.sink_channels import KNOWN, find_sink_channels, find_sinks, resolve_sink_dims
from vlm_heads.toolkit.sink_criterion import MEDIAN_FACTOR, SinkCriterion, sink_strength


def _with_massive_channels(tiny: Build, family: str, values: dict[int, float]) -> Anatomy:
    """Return a model whose first token explodes: its embedding carries large values in some channels."""
    model = tiny(family)
    embedding = model.model.get_input_embeddings().weight
    scale = embedding.detach().std()
    with torch.no_grad():
        for channel, value in values.items():
            embedding[1, channel] = value * 30 * scale  # token 1 begins every prompt
    return examine(model.model)


@pytest.mark.parametrize("family_name", ["llava", "qwen2_5_vl", "blip2"])
def test_planted_channels_are_found(family_name: str, tiny: Build) -> None:
    anatomy = _with_massive_channels(tiny, family_name, {5: 1.0, 40: -0.6})
    found = find_sink_channels(anatomy)
    assert found.channels == (5, 40)
    assert found.standing_out[0] > found.standing_out[1] > 3
    assert found.source == "discovery"
    assert resolve_sink_dims("auto", anatomy) == (5, 40)


def test_more_than_three_large_channels_are_no_sink_channels(tiny: Build) -> None:
    anatomy = _with_massive_channels(tiny, "llava", {5: 1.0, 9: 1.0, 20: 1.0, 40: 1.0})
    assert find_sink_channels(anatomy).channels == ()


def test_own_prompts_are_taken(tiny: Build) -> None:
    anatomy = _with_massive_channels(tiny, "llava", {5: 1.0})
    assert find_sink_channels(anatomy, torch.tensor([[1, 7, 8]])).channels == (5,)
    assert find_sink_channels(anatomy, torch.tensor([[7, 1, 8]])).channels == ()


def _with_a_channel_large_everywhere(tiny: Build, times: float) -> Anatomy:
    """Return a model with one channel that is large at every token, and so many times larger at the first."""
    model = tiny("llava")
    embedding = model.model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[:, 5] = 30 * embedding.detach().std()
        embedding[1, 5] *= times
    return examine(model.model)


def test_a_channel_that_is_large_everywhere_is_found_by_the_median_token(tiny: Build) -> None:
    anatomy = _with_a_channel_large_everywhere(tiny, 50)
    assert find_sink_channels(anatomy).channels == ()
    found = find_sink_channels(anatomy, criterion="median")
    assert found.channels == (5,)
    assert found.elsewhere[0] == pytest.approx(50, rel=0.2)  # attention and the MLP before the middle layer add to it
    assert resolve_sink_dims("auto", anatomy, criterion="median") == (5,)
    assert find_sinks(anatomy)[1] == SinkCriterion((5,), "median", MEDIAN_FACTOR)


def test_the_refusal_names_the_criterion_that_finds_sinks(tiny: Build) -> None:
    with pytest.raises(NoSinks, match=r"channel 5 is \d\d times .* take criterion=median, and sinks=any where"):
        resolve_sink_dims("auto", _with_a_channel_large_everywhere(tiny, 50))
    with pytest.raises(NoSinks, match="no attention sinks to take weight from; give sink_dims"):
        resolve_sink_dims("auto", _with_a_channel_large_everywhere(tiny, 1))


def test_the_factor_decides_by_the_median_token(tiny: Build) -> None:
    anatomy = _with_a_channel_large_everywhere(tiny, 5)
    with pytest.raises(NoSinks, match=r"7 times as large at the first token .* lower factor"):
        resolve_sink_dims("auto", anatomy, criterion="median")
    assert resolve_sink_dims("auto", anatomy, criterion="median", factor=4) == (5,)


@pytest.mark.parametrize("criterion", ["phi", "median"])
def test_both_criteria_find_planted_channels(criterion: str, tiny: Build) -> None:
    anatomy = _with_massive_channels(tiny, "llava", {5: 1.0, 40: -0.6})
    assert find_sink_channels(anatomy, criterion=criterion).channels == (5, 40)
    assert find_sink_channels(examine(tiny("llava").model), criterion=criterion).channels == ()
    assert find_sinks(anatomy)[1] == SinkCriterion((5, 40), "phi", 2.5)  # 0.31 of the root of 64


def test_looking_leaves_no_hook(tiny: Build) -> None:
    anatomy = examine(tiny("llava").model)
    find_sink_channels(anatomy)
    assert not any(layer._forward_pre_hooks for layer in anatomy.layers)


def test_strength_is_the_largest_channel_over_the_root_mean_square() -> None:
    # mean square of (3, 4, 0, 0) is 25 / 4, its root 2.5: channel 1 stands at 4 / 2.5 = 1.6, channel 0 at 1.2
    hidden = torch.tensor([[3.0, -4.0, 0.0, 0.0]])
    assert sink_strength(hidden, (0, 1)).item() == pytest.approx(1.6, rel=1e-5)
    assert sink_strength(hidden, (0,)).item() == pytest.approx(1.2, rel=1e-5)


def test_the_table_holds_channels_inside_its_models() -> None:
    assert all(0 < len(one.channels) <= 3 and max(one.channels) < one.width and one.provenance for one in KNOWN)
    shapes = [(kind, one.width, one.depth, one.key_heads) for one in KNOWN for kind in one.text_types]
    assert len(set(shapes)) == len(shapes)
