"""What holds for every scorer: its word, its card, batches, halves, and the model that is left as it was."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.compare import distance, equal, rounding
from tests.support.scored import Scored, random_model
from vlm_heads import VLM, HeadProfile, HeadReinforcement, attach, errors, score_heads
from vlm_heads.models.planted import COLOURS, NEGATIVE_HEAD, PRIOR_HEADS, VISION_HEADS, planted_image
from vlm_heads.names import require_scorers
from vlm_heads.scorers import Example, Mention, known_scorers, parse_scorer
from vlm_heads.toolkit.head_ranking import write_ranking

NAMES = list(known_scorers())
CLOSE = rounding(torch.float32, terms=1024, size=4.0)
COPY = 'copy:text="car dog a bird",ask="see",said=given'


def _samples(name: str, asked: list[Example], judged: list[Example], questions: list[Example]) -> list[Example]:
    return {"pictures": asked, "questions": questions}.get(known_scorers()[name].needs, judged)


def _word(name: str) -> str:
    return COPY if name == "copy" else name


@pytest.fixture
def model() -> Scored:
    return random_model(2)


@pytest.mark.parametrize("name", NAMES)
def test_words_are_read_back(name: str) -> None:
    scorer = parse_scorer(name)
    assert scorer.word() == name
    for option in scorer.options():
        assert parse_scorer(f"{name}:{option.name}={_quoted(option.write(option.default))}") == scorer
    assert parse_scorer(parse_scorer(_word(name)).word()) == parse_scorer(_word(name))


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_batch_and_say_where_they_come_from(
    name: str, model: Scored, asked: list[Example], judged: list[Example], questions: list[Example]
) -> None:
    samples = _samples(name, asked, judged, questions)
    told: list[int] = []
    profiles = [
        parse_scorer(_word(name)).score(*model, iter(samples), batch_size=size, progress=told.append)
        for size in (1, len(samples))
    ]
    assert distance(profiles[0].scores, profiles[1].scores) < CLOSE
    assert profiles[0].scores.std() > 0
    assert told == [*range(1, len(samples) + 1), len(samples)]
    assert (profiles[0].samples, profiles[0].model_type) == (len(samples), "llava")
    assert profiles[0].card["scorer"] == parse_scorer(_word(name)).word()


@pytest.mark.parametrize("name", NAMES)
def test_halves_are_every_second_picture(
    name: str, model: Scored, asked: list[Example], judged: list[Example], questions: list[Example]
) -> None:
    again = [replace(one, image=planted_image("banana")) for one in reversed(questions)]
    samples = _samples(name, asked, judged, [*questions, *again])
    scorer = parse_scorer(_word(name))
    measured = scorer.measure(*model, samples)
    assert measured.halves is not None
    for half, found in enumerate(measured.halves):
        assert distance(found, scorer.score(*model, samples[half::2]).scores) < CLOSE
    if scorer.contrasts:  # one sample of either kind leaves no half with both
        kinds = {"negative": samples[1:3]}.get(name, [samples[0], samples[-1]])
        assert scorer.measure(*model, kinds).halves is None
    assert scorer.needs != "pictures" or scorer.measure(*model, samples[:1]).halves is None


def test_samples_of_one_picture_stay_in_one_half(model: Scored, questions: list[Example]) -> None:
    """Two questions about each picture, one with yes and one with no: both halves have both."""
    pictures = [planted_image(word) for word in ("car", "bird", "car", "bird")]
    samples = [replace(one, image=picture) for picture in pictures for one in questions[1:]]
    scorer = parse_scorer("negative")
    measured = scorer.measure(*model, samples)
    assert measured.halves is not None
    for found in measured.halves:
        assert distance(found, measured.profile.scores) > CLOSE
    expected = scorer.score(*model, [*samples[:2], *samples[4:6]]).scores
    assert distance(measured.halves[0], expected) < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was(
    name: str, model: Scored, asked: list[Example], judged: list[Example], questions: list[Example]
) -> None:
    bare, _ = model
    hooks = {path: list(vars(module)["_forward_pre_hooks"]) for path, module in bare.named_modules()}
    weights = {key: value.clone() for key, value in bare.state_dict().items()}
    samples = _samples(name, asked, judged, questions)
    parse_scorer(_word(name)).score(*model, samples)
    with pytest.raises(errors.BadImage):
        parse_scorer(_word(name)).score(*model, [replace(samples[0], image=b"")])
    assert {path: list(vars(module)["_forward_pre_hooks"]) for path, module in bare.named_modules()} == hooks
    assert all(torch.equal(value, weights[key]) for key, value in bare.state_dict().items())
    assert bare.model.language_model.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in bare.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_scoring_inside_an_attach_is_refused(name: str, model: Scored, asked: list[Example]) -> None:
    with attach(model[0], HeadReinforcement(), allow_idle=True), pytest.raises(errors.AlreadyAttached):
        parse_scorer(_word(name)).score(*model, asked)


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_another_kind_are_refused(name: str, model: Scored, asked: list[Example]) -> None:
    with pytest.raises(errors.BadOption, match="no sample"):
        parse_scorer(_word(name)).score(*model, [])
    if parse_scorer(name).needs != "pictures":
        with pytest.raises(errors.BadOption, match=f"{name} needs .* none of 4 samples"):
            parse_scorer(name).score(*model, asked)


def test_what_is_compared_needs_both_sides(model: Scored, judged: list[Example], questions: list[Example]) -> None:
    for name, samples, kind in (
        ("allpath-format", judged[:4], "wrong"),
        ("allpath-image", judged[4:], "right"),
        ("negative", questions[:2], "right"),
    ):
        with pytest.raises(errors.BadOption, match=f"nothing {kind} is among"):
            parse_scorer(name).score(*model, samples)


def test_what_cannot_be_read_says_why(model: Scored, asked: list[Example]) -> None:
    for text, said in (("imagemass", "image-mass"), ("ablation:gian=1", "gain"), ("ablation:at_once=0", "at least 1")):
        with pytest.raises(errors.BadOption, match=said):
            parse_scorer(text)
    with pytest.raises(errors.BadOption, match="image-mass"):
        require_scorers(["image_mass"])
    picture = planted_image("car")
    for example, said in (
        (Example(picture, "see", "a dog", (Mention("cat", False),)), "'cat' does not stand in the text"),
        (Example(picture, "see", "a <image>"), "image token"),
    ):
        with pytest.raises(errors.BadOption, match=said):
            parse_scorer("allpath-format").score(*model, [example])
    far = Example(picture, "see", "a dog", (Mention("dog", True, (16,)),))
    with pytest.raises(errors.BadOption, match="position 16, and the picture has 16"):
        parse_scorer("allpath-image").score(*model, [far])
    with pytest.raises(errors.BadOption, match="half of 'a dog' or less"):
        parse_scorer('copy:text="a dog"').score(*model, asked)


def test_a_vocabulary_without_yes_cannot_be_asked(planted: Scored, questions: list[Example]) -> None:
    with pytest.raises(errors.UnsupportedModel, match="yes and no"):
        parse_scorer("negative").score(*planted, questions)


@pytest.mark.parametrize("name", ["vhd", "image-route", "logits", "ablation", "allpath-format"])
def test_planted_vision_heads_come_first(
    name: str, planted: Scored, asked: list[Example], judged: list[Example]
) -> None:
    samples = asked if name in ("vhd", "image-route") else judged
    best = parse_scorer(name).score(*planted, samples).top(len(VISION_HEADS))
    assert {(layer, head) for layer, head, _ in best} == VISION_HEADS


def test_planted_vision_heads_attend_most_to_the_picture_in_their_layers(planted: Scored, asked: list[Example]) -> None:
    """In other layers heads attend to everything alike, and a picture of 16 positions gets most of that."""
    scores = parse_scorer("image-mass").score(*planted, asked).scores
    for layer in (2, 3):
        best = scores[layer].topk(2).indices.tolist()
        assert {(layer, head) for head in best} == {one for one in VISION_HEADS if one[0] == layer}


@pytest.mark.parametrize("name", ["logits", "ablation", "allpath-format"])
def test_planted_heads_that_invent_come_last(name: str, planted: Scored, judged: list[Example]) -> None:
    scores = parse_scorer(name).score(*planted, judged).scores
    worst = scores.flatten().argsort()[: len(PRIOR_HEADS) + 1].tolist()
    assert {divmod(place, 4) for place in worst} == PRIOR_HEADS | {NEGATIVE_HEAD}
    assert divmod(worst[0], 4) == NEGATIVE_HEAD


def test_allpath_with_its_own_scores_mends_the_planted_model(
    planted: Scored, judged: list[Example], tmp_path: Path
) -> None:
    """The lists are made by its two scorers; the model then says what it sees."""
    vlm = VLM(*planted, "planted")
    profile = parse_scorer("allpath-format").score(*planted, judged)
    write_ranking(profile.scores, tmp_path / "format.jsonl")
    words = "allpath:worst=5,best=4"
    for word in COLOURS:
        assert "dog" in vlm.answer(planted_image(word), "what ?").text
        assert word in vlm.answer(planted_image(word), "what ?", words, profile=profile).text
        listed = f"{words},format_list={tmp_path / 'format.jsonl'}"
        assert word in vlm.answer(planted_image(word), "what ?", listed).text


@pytest.mark.parametrize("name", ["image-mass", "ablation"])
def test_methods_that_read_a_profile_take_any_scorers(
    name: str, planted: Scored, judged: list[Example], tmp_path: Path
) -> None:
    parse_scorer(name).score(*planted, judged).save_pretrained(tmp_path)
    profile = HeadProfile.from_pretrained(tmp_path)
    assert profile.card["scorer"] == name
    answer = VLM(*planted, "planted").answer(
        planted_image("car"), "what ?", "route:image=3,heads=fixed,layers=all", profile=profile
    )
    assert "car" in answer.text


def test_score_heads_is_the_scorer_vhd(planted: Scored, asked: list[Example]) -> None:
    pairs = [(example.image, example.prompt) for example in asked]
    one, other = score_heads(*planted, pairs), parse_scorer("vhd").score(*planted, asked)
    assert equal(one.scores, other.scores)
    assert one.surges is not None
    assert other.surges is not None
    assert equal(one.surges, other.surges)


def test_a_package_brings_a_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_scorer.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\n"
        "from vlm_heads.scorers import Found, Scorer, empty\n\n"
        "@dataclass(frozen=True)\nclass Depth(Scorer):\n"
        "    name: ClassVar[str] = 'depth'\n    unit: ClassVar[str] = 'layers'\n\n"
        "    def look(self, model, processor, anatomy, examples):\n"
        "        for _ in examples:\n"
        "            yield Found(empty(anatomy) + __import__('torch').arange(anatomy.depth)[:, None])\n"
    )
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vlm_heads.scorers]\ndepth = their_scorer:Depth\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = sys.modules["vlm_heads.scorers.registry"]
    registry._found.cache_clear()
    try:
        scores = parse_scorer("depth").score(*random_model(2), [planted_image("car")]).scores
        assert scores[:, 0].tolist() == [0, 1, 2, 3]
        require_scorers(["depth"])
    finally:
        monkeypatch.undo()
        registry._found.cache_clear()
