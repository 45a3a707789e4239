"""VAR on the planted model with sinks says what the image shows; its controls do not."""

import pytest

from vlm_heads import VLM, SinkRedistribution
from vlm_heads.errors import NothingIntervened
from vlm_heads.families import examine
from vlm_heads.interventions.base import Intervention
from vlm_heads.models.planted import COLOURS, PRIOR_WORD
from vlm_heads.models.planted_sinks import SINK_CHANNEL, build_planted_with_sinks, image_with_sinks
from vlm_heads.profiles.sink_shares import sink_shares
from vlm_heads.toolkit.sink_channels import find_sink_channels

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
    text, image = sink_shares(vlm.model, inputs, (SINK_CHANNEL,), threshold=2.5)
    assert text.shape == image.shape == (4,)
    assert image[2] > image[0] + 0.05
    assert image[3] > image[0] + 0.05
    assert bool(((text > 0) & (text + image < 1)).all())
    none = sink_shares(vlm.model, inputs, (SINK_CHANNEL + 1,), threshold=2.5)
    assert none[0].sum() == none[1].sum() == 0
