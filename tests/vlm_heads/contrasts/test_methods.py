"""The contrasts by name: neutral ones change nothing, a batch gives what its rows give, words are read or refused."""

from collections.abc import Sequence
from dataclasses import fields
from typing import NoReturn

import pytest
from PIL import Image
from torch import Tensor

from tests.support.compare import distance
from vlm_heads import (
    VLM,
    ChangedImage,
    FadingImage,
    HeadReinforcement,
    ImageFree,
    Mitigation,
    NoisedImage,
    errors,
    known_contrasts,
    parse_mitigation,
)
from vlm_heads.methods import Asked
from vlm_heads.models.planted import planted_image

NAMES = list(known_contrasts())
QUESTIONS = ["what do you see?", "please describe this image in detail what do you see?"]


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return VLM.from_pretrained("planted")


@pytest.fixture(scope="module")
def random_vlm(vlm: VLM) -> VLM:
    """The planted model with weights drawn at random: no token stands far above the others."""
    import torch

    torch.manual_seed(3)
    model = type(vlm.model)(vlm.model.config)
    return VLM(model, vlm.processor)


def _pictures() -> list[Image.Image]:
    return [planted_image("car"), planted_image("bird").resize((60, 40))]


def test_all_are_found() -> None:
    assert NAMES == [
        "ascd",
        "avisc",
        "branch",
        "causalmm",
        "crops",
        "icd",
        "lqcd",
        "m3id",
        "maskcd",
        "owl",
        "pai-contrast",
        "ritual",
        "sid",
        "vcd",
        "vdgd",
    ]


@pytest.mark.parametrize("name", [name for name, kind in known_contrasts().items() if kind.neutral])
def test_neutral_options_leave_the_answer(name: str, vlm: VLM) -> None:
    kind = known_contrasts()[name]
    plain = vlm.answer(_pictures()[0], QUESTIONS[0])
    assert (
        vlm.answer(_pictures()[0], QUESTIONS[0], contrast=kind(**{**kind.trial, **kind.neutral})).token_ids
        == plain.token_ids
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_what_its_rows_give_alone(name: str, random_vlm: VLM) -> None:
    """Prompts of different lengths, padded differently in the two streams; pictures changed and noised alike."""
    kind = known_contrasts()[name]
    contrast = kind(**kind.trial)
    padding = random_vlm.model.generation_config.pad_token_id  # at an answer's end it is no token of the answer
    options: dict[str, object] = {"max_new_tokens": 6, "contrast": contrast, "suppress_tokens": [padding]}
    together = random_vlm.answer_batch(_pictures(), QUESTIONS, **options)
    assert together[0].receipt is not None
    tokens = max(len(one.token_ids) for one in together) - 1
    ways = {"in_one_pass": tokens, "in_two_forwards": 0, "why": "", "streams": len(contrast.weights(0)) - 1}
    assert together[0].receipt["second_stream"] == {"name": name, **ways}
    for one, picture, question in zip(together, _pictures(), QUESTIONS, strict=True):
        assert random_vlm.answer(picture, question, **options).token_ids == one.token_ids


@pytest.mark.parametrize("name", ["icd", "lqcd", "ritual", "vcd"])
def test_each_moves_the_next_token(name: str, random_vlm: VLM) -> None:
    """Seen in the logits that `generate` weighs, because a small model's words need not change."""
    scores = []
    kind = known_contrasts()[name]

    def keep(_: Tensor, logits: Tensor) -> Tensor:
        scores.append(logits.clone())
        return logits

    for contrast in (kind(bound=0.0), kind(**{**kind.neutral, "bound": 0.0})):
        inputs, decoding, processor = random_vlm._asked(_pictures(), QUESTIONS, contrast, {"max_new_tokens": 1})
        random_vlm.model.generate(**inputs, **decoding, logits_processor=[processor, keep])
    assert distance(scores[0], scores[1]) > 1e-3


def test_a_contrast_goes_with_interventions_and_a_stream(vlm: VLM) -> None:
    """VHR turns "dog" into the picture's word; taking the image-free stream off leaves the picture's word alone."""
    picture = planted_image("banana")
    said = vlm.answer(picture, QUESTIONS[0], [HeadReinforcement()], contrast=ImageFree(gamma=1.5))
    assert said.text == "there is a banana."
    assert said.receipt is not None
    assert "".join(vlm.stream(picture, QUESTIONS[0], [HeadReinforcement()], contrast=FadingImage())) == said.text


def test_pictures_are_changed_alike_in_every_batch(vlm: VLM) -> None:
    """RITUAL's change is drawn by seed and picture, not by place in the batch."""
    seen: list[list[bytes]] = []

    def build(images: Sequence[Image.Image], _: object) -> NoReturn:
        seen.append([image.tobytes() for image in images])
        raise errors.BadOption("seen enough")

    for order in (_pictures(), _pictures()[::-1]):
        with pytest.raises(errors.BadOption, match="seen"):
            ChangedImage().processor(Asked(vlm.model, {}, order, ["x"] * len(order), build))
    assert seen[0] == seen[1][::-1]


def test_words_become_a_mitigation() -> None:
    found = parse_mitigation(["vhr:gain=1.5", "vcd:alpha=0.5,noise_step=700"])
    assert found == Mitigation((HeadReinforcement(gain=1.5),), NoisedImage(alpha=0.5, noise_step=700))
    assert found.stated()["contrast"] == {"name": "vcd", "alpha": 0.5, "bound": 0.1, "noise_step": 700, "seed": 0}
    assert not parse_mitigation([])
    assert parse_mitigation(["m3id"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vdc"], "did you mean 'vcd'"),
        (["vrh"], "did you mean 'vhr'"),
        (["vcd:alfa=1"], "did you mean 'alpha'"),
        (["vcd:alpha=much"], "a number"),
        (["vcd:alpha=-1"], "at least 0"),
        (["vcd:noise_step=2000"], "noise_step"),
        (["m3id:bound=2"], "bound"),
        (["pai-contrast:gamma=0.5"], "gamma"),
        (["vcd", "m3id"], "both second streams"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(words: list[str], said: str) -> None:
    with pytest.raises(errors.BadOption, match=said):
        parse_mitigation(words)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_can_be_written(name: str) -> None:
    kind = known_contrasts()[name]
    written = ",".join(f"{one.name}={one.default}" for one in fields(kind))
    assert parse_mitigation([f"{name}:{written}"]).contrast == kind()


def test_what_is_no_contrast_is_refused(vlm: VLM) -> None:
    for wrong in (NoisedImage, "vcd", HeadReinforcement()):
        with pytest.raises(errors.BadOption, match="no contrast"):
            vlm.answer(_pictures()[0], QUESTIONS[0], contrast=wrong)  # type: ignore[arg-type]
