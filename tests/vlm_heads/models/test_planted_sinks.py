"""VAR on the planted model with sinks says what the image shows; its controls do not."""

from dataclasses import replace

import pytest

from tests.support.compare import equal
from vlm_heads import VLM, SinkRedistribution
from vlm_heads.errors import NothingIntervened
from vlm_heads.families import examine
from vlm_heads.interventions.base import Intervention
from vlm_heads.models.planted import COLOURS, PRIOR_WORD
from vlm_heads.models.planted_sinks import SINK_CHANNEL, build_planted_with_sinks, image_with_sinks
from vlm_heads.profiles.sink_shares import sink_shares
from vlm_heads.toolkit.sink_channels import find_sink_channels
from vlm_heads.toolkit.sink_criterion import SinkCriterion

VAR: dict[str, object] = {"threshold": "relative", "layers": (2, 3)}


@pytest.fixture(scope="module")
def vlm() -> VLM:
    """The model, loaded once."""
    return VLM(*build_planted_with_sinks(), "planted with sinks")


def _word(vlm: VLM, word: str, *interventions: Intervention) -> str:
    text = vlm.answer(image_with_sinks(word), interventions=interventions, max_new_tokens=8).text
    return next(one for one in (*COLOURS, PRIOR_WORD) if one in text)


@pytest.mark.parametrize("word", COLOURS)
def test_redistribution_recovers_the_word(word: str, vlm: VLM) -> None:
    assert _word(vlm, word) == PRIOR_WORD
    assert _word(vlm, word, SinkRedistribution(**VAR)) == word


def test_controls_do_not(vlm: VLM) -> None:
    """Vision heads not selected, too little moved, and a channel in which nothing explodes."""
    assert _word(vlm, "car", SinkRedistribution(max_sink_share=0.3, **VAR)) == PRIOR_WORD
    assert _word(vlm, "car", SinkRedistribution(moved=0.1, **VAR)) == PRIOR_WORD
    with pytest.raises(NothingIntervened):
        _word(vlm, "car", SinkRedistribution(sink_dims=(SINK_CHANNEL + 1,), **VAR))


def test_the_channel_is_discovered(vlm: VLM) -> None:
    found = find_sink_channels(examine(vlm.model))
    assert found.channels == (SINK_CHANNEL,)
    assert found.standing_out[0] > 3


def test_sinks_take_their_share_in_the_layers_that_have_vision_heads(vlm: VLM) -> None:
    inputs = vlm.inputs([image_with_sinks("car")], ["what is in the picture ?"])
    text, image = sink_shares(vlm.model, inputs, SinkCriterion((SINK_CHANNEL,), "phi", 2.5))
    assert text.shape == image.shape == (4,)
    assert image[2] > image[0] + 0.05
    assert image[3] > image[0] + 0.05
    assert bool(((text > 0) & (text + image < 1)).all())
    none = sink_shares(vlm.model, inputs, SinkCriterion((SINK_CHANNEL + 1,), "phi", 2.5))
    assert none[0].sum() == none[1].sum() == 0
    by_median = sink_shares(vlm.model, inputs, SinkCriterion((SINK_CHANNEL,), "median", 10.0))
    assert equal(by_median, (text, image))


@pytest.mark.parametrize("word", COLOURS)
def test_the_median_token_and_the_black_corners_recover_it_too(word: str, vlm: VLM) -> None:
    """The corners are the first and the last of 16 patches; with no other sinks, they give their own weight."""
    assert _word(vlm, word, SinkRedistribution(criterion="median", layers=(2, 3))) == word
    corners = SinkRedistribution(position_sinks="0+15", threshold=7.9, layers=(2, 3), moved=0.9)
    assert _word(vlm, word, corners) == word
    assert _word(vlm, word, replace(corners, position_sinks="1+14")) == PRIOR_WORD
