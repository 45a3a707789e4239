"""Slips of the hand in Python: refused in one line that names what was given, before anything runs."""

from functools import cache
from typing import Any

import pytest
import torch

from tests.support.families import Build, Tiny
from vlm_heads import VLM, Answer, HeadProfile, HeadReinforcement, attach, errors, fold_gains, score_heads
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.generate_call import check_arguments
from vlm_heads.models.planted import planted_image


@cache
def _planted() -> VLM:
    return VLM.from_pretrained("planted")


@pytest.fixture
def vlm() -> VLM:
    return _planted()


@pytest.mark.parametrize("prompt", [None, 5, b"what ?", [None], [["what ?"]]])
def test_a_prompt_that_is_no_text(prompt: Any, vlm: VLM) -> None:
    with pytest.raises(errors.BadPrompt, match="a text is needed"):
        vlm.answer_batch([planted_image("car")], prompt)
    if not isinstance(prompt, list):
        with pytest.raises(errors.BadPrompt, match="a text is needed"):
            vlm.answer(planted_image("car"), prompt)
        with pytest.raises(errors.BadPrompt, match="a text is needed"):
            vlm.stream(planted_image("car"), prompt)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_new_tokens": "5"}, "max_new_tokens='5': a whole number of at least 1 is needed"),
        ({"max_new_tokens": 0}, "of at least 1"),
        ({"max_new_tokens": 2.0}, "a whole number"),
        ({"num_beams": True}, "num_beams=True: a whole number"),
        ({"temperature": "0.7", "do_sample": True}, "temperature='0.7': a number"),
        ({"do_sample": "no"}, "do_sample='no': True or False"),
        ({"max_tokens": 5}, "no argument 'max_tokens'.*did you mean 'max_"),
        ({"beams": 5}, "did you mean 'num_beams'"),
    ],
)
def test_an_argument_of_generate_that_cannot_be(given: dict[str, Any], said: str, vlm: VLM) -> None:
    with pytest.raises(errors.BadOption, match=said):
        vlm.answer(planted_image("car"), "what ?", **given)
    with pytest.raises(errors.BadOption, match=said):
        vlm.stream(planted_image("car"), "what ?", "vhr", **given)


def test_every_argument_of_a_family_is_known(family: str, tiny: Build) -> None:
    model = tiny(family)
    common = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": [2], "logits_processor": [], "streamer": None}
    check_arguments(model.model, {**model.inputs, **common, "tokenizer": None, "use_cache": True, "temperature": 1})


@pytest.mark.parametrize("images", ["cat.png", b"...", 5, planted_image("car")])
def test_one_image_where_several_are_taken(images: Any, vlm: VLM) -> None:
    with pytest.raises(errors.BadImage, match=r"ask answer\(image, ...\) about one"):
        vlm.answer_batch(images, "what ?")


def test_a_vlm_where_a_model_is_taken(vlm: VLM) -> None:
    gains = torch.full((4, 4), 2.0)
    for slip in (
        lambda: attach(vlm, "vhr"),
        lambda: score_heads(vlm, vlm.processor, [planted_image("car")]),
        lambda: fold_gains(vlm, gains),
    ):
        with pytest.raises(errors.UnsupportedModel, match=r"give its \.model, as in attach\(vlm\.model"):
            slip()


def test_a_path_where_a_profile_is_taken(llava: Tiny) -> None:
    with pytest.raises(errors.BadOption, match=r"give HeadProfile\.from_pretrained\(folder\)"):
        attach(llava.model, "vhr", profile="profile/")


class _Counts(Watcher):
    """Counts what it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def see(self, call: AttentionCall) -> None:
        self.seen += 1


def test_one_watcher_is_enough(llava: Tiny) -> None:
    watcher = _Counts()
    with attach(llava.model, watch=watcher):
        llava.generate(1)
    assert watcher.seen == 3


def test_what_a_notebook_prints_is_short(vlm: VLM, llava: Tiny) -> None:
    with attach(llava.model, HeadReinforcement(layers="all"), "pai:layers=all") as run:
        llava.generate(3)
        assert repr(run) == (
            "<Attachment to llava, attached: <Receipt of vhr, pai on llava: 1 generation, 3 steps changed>>"
        )
    assert "detached" in repr(run)
    assert len(repr(run.receipt.interventions[0])) < 250
    assert repr(vlm) == "<VLM 'planted': llava on cpu>"
    assert (
        repr(Answer("a " * 60, (1, 2), 1.234, {}))
        == f"<Answer {('a ' * 30)[:59] + '…'!r}: 2 tokens, 1.23 s, mitigated>"
    )
    profile = HeadProfile(torch.zeros(32, 32), samples=7, model_type="llava")
    assert repr(profile) == "<HeadProfile of llava: scores, 32 layers of 32 heads, 7 samples>"
    gained = HeadProfile(torch.zeros(2, 4), gains=torch.tensor([[1.0, 2.0, 1.0, 1.0]] * 2))
    assert repr(gained) == "<HeadProfile: gains on 2 heads, 2 layers of 4 heads, 0 samples>"
