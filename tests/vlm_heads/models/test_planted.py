"""The mechanism, where weights were written down: the vision heads are found, and reinforcing them mends the answer."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

from vlm_heads import VLM, HeadReinforcement, errors, score_heads, token_grounding
from vlm_heads.models.planted import COLOURS, NEGATIVE_HEAD, PRIOR_HEADS, PRIOR_WORD, VISION_HEADS, planted_image
from vlm_heads.toolkit.sensitivity import without_outliers


@cache
def _planted() -> VLM:
    return VLM.from_pretrained("planted")


@pytest.fixture
def vlm() -> VLM:
    return _planted()


@pytest.fixture
def says() -> Callable[..., str]:
    """Returns the object word of the answer about a picture of `word`."""

    def ask(word: str, *interventions: HeadReinforcement) -> str:
        answer = _planted().answer(planted_image(word), interventions=interventions)
        return answer.text.removeprefix("there is a ").removesuffix(".")

    return ask


def test_vhd_ranks_exactly_the_planted_heads_first(vlm: VLM) -> None:
    profile = score_heads(vlm.model, vlm.processor, [planted_image(word) for word in COLOURS])
    first = profile.top(len(VISION_HEADS))
    assert {(layer, head) for layer, head, _ in first} == VISION_HEADS
    assert first[-1][2] > 1.5 * profile.top(len(VISION_HEADS) + 1)[-1][2]


def test_the_filter_drops_the_negative_head_and_no_other(vlm: VLM) -> None:
    profile = score_heads(vlm.model, vlm.processor, [planted_image("car")])
    filtered = without_outliers(profile.scores, profile.surges)
    dropped = torch.nonzero((profile.scores > 0) & (filtered == 0)).tolist()
    assert dropped == [list(NEGATIVE_HEAD)]


@pytest.mark.parametrize("word", COLOURS)
def test_plain_the_prior_outshouts_the_image(word: str, says: Callable[..., str]) -> None:
    assert says(word) == PRIOR_WORD


@pytest.mark.parametrize("blind", ["plain", "lockstep", "two-pass"])
@pytest.mark.parametrize("word", COLOURS)
def test_gain_2_turns_the_wrong_word_into_the_right_one(word: str, blind: str, says: Callable[..., str]) -> None:
    assert says(word, HeadReinforcement(gain=2.0, blind=blind)) == word


@pytest.mark.parametrize(
    "control",
    [
        HeadReinforcement(gain=0.5),
        HeadReinforcement(gain=1.0),
        HeadReinforcement(heads="bottom"),
        HeadReinforcement(outlier_filter=False),
    ],
    ids=["gain 0.5", "neutral", "bottom heads", "no filter"],
)
@pytest.mark.parametrize("word", COLOURS)
def test_controls_do_not(word: str, control: HeadReinforcement, says: Callable[..., str]) -> None:
    assert says(word, control) == PRIOR_WORD


def test_layers_without_vision_heads_leave_nothing_to_do(vlm: VLM) -> None:
    with pytest.raises(errors.NothingIntervened, match="no head was chosen"):
        vlm.answer(planted_image("car"), interventions=[HeadReinforcement(layers=[0, 1])])


def test_random_heads_help_no_more_often_than_chance_lets_them(says: Callable[..., str]) -> None:
    """Two of four heads on each layer: both vision heads of both layers are drawn in 1 of 36 cases."""
    answers = [says("car", HeadReinforcement(heads="random", seed=seed)) for seed in range(12)]
    assert answers.count(PRIOR_WORD) >= 9


def test_exactly_the_planted_heads_are_reinforced(vlm: VLM) -> None:
    receipt = vlm.answer(planted_image("car"), interventions=[HeadReinforcement()]).receipt
    assert receipt is not None
    chosen = receipt["interventions"][0]["heads"]
    assert {(int(layer), head) for layer, counts in chosen.items() for head in range(4) if counts[head]} == VISION_HEADS


def test_bottom_heads_are_the_prior(vlm: VLM) -> None:
    receipt = vlm.answer(planted_image("car"), interventions=[HeadReinforcement(heads="bottom")]).receipt
    assert receipt is not None
    chosen = receipt["interventions"][0]["heads"]
    assert {(int(layer), head) for layer, counts in chosen.items() for head in range(4) if counts[head]} == PRIOR_HEADS


def test_a_profile_chooses_the_same_heads_without_an_image_free_pass(vlm: VLM) -> None:
    profile = score_heads(vlm.model, vlm.processor, [planted_image("banana")])
    answer = vlm.answer(planted_image("car"), interventions=[HeadReinforcement(heads="fixed")], profile=profile)
    assert answer.text == "there is a car."
    assert answer.receipt is not None
    assert answer.receipt["blind_passes"] == 0


def test_the_object_word_leans_on_the_image_most(vlm: VLM) -> None:
    tokens = token_grounding(vlm.model, vlm.processor, planted_image("car"), "what do you see?", "there is a car.")
    assert [token.text.strip() for token in tokens] == ["there", "is", "a", "car", "."]
    assert max(tokens, key=lambda token: token.t_vhd).text.strip() == "car"


def test_votes_are_those_in_the_docstring(vlm: VLM) -> None:
    """Token logits are 4 times the votes, through norms that pass them on within a few per cent."""
    inputs = vlm.inputs([Image.new("RGB", (32, 32), COLOURS["car"])], "what do you see?")
    words = vlm.processor.tokenizer.convert_tokens_to_ids(["there", "is", "a"])
    inputs = {
        "input_ids": torch.cat([inputs["input_ids"], torch.tensor([words])], dim=1),
        "pixel_values": inputs["pixel_values"],
    }
    with torch.no_grad():
        votes = vlm.model(**inputs).logits[0, -1] / 4
    car, dog = vlm.processor.tokenizer.convert_tokens_to_ids(["car", PRIOR_WORD])
    assert votes[car] == pytest.approx(1.0, abs=0.05)
    assert votes[dog] == pytest.approx(1.6, abs=0.05)


def test_it_can_be_saved_and_loaded_as_any_model(vlm: VLM, tmp_path: Path) -> None:
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    loaded = VLM.from_pretrained(tmp_path)
    picture = planted_image("bird")
    assert loaded.answer(picture).token_ids == vlm.answer(picture).token_ids
    assert loaded.answer(picture, interventions=[HeadReinforcement()]).text == "there is a bird."
