"""Mitigations: words and methods are inverse to each other, whole ones are attached, saved and shared."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vlm_heads
from vlm_heads import (
    VLM,
    FadingImage,
    HeadProfile,
    HeadReinforcement,
    ImageBoost,
    Method,
    Mitigation,
    NoisedImage,
    StaticGains,
    TextBoundHeads,
    attach,
    errors,
    known_methods,
    parse_method,
    parse_mitigation,
)
from vlm_heads.methods import Option
from vlm_heads.models import planted_image

NAMES = list(known_methods())
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
HEAD = st.tuples(st.integers(-40, 40), st.integers(0, 63))


def _values(option: Option) -> st.SearchStrategy[Any]:
    """Draw what an option may have."""
    number = st.floats(
        -1e9 if option.at_least is None else option.at_least,
        1e12 if option.at_most is None else option.at_most,
        allow_nan=False,
    )
    if option.kind == "layers":
        return st.sampled_from(["paper", "all", "last-half"]) | st.lists(st.integers(-40, 40), min_size=1, max_size=5)
    if option.kind == "list":
        gains = st.lists(
            st.tuples(st.integers(-40, 40), st.integers(0, 63), st.floats(0, 1e12)), min_size=1, max_size=4
        )
        heads = st.lists(HEAD, min_size=1, max_size=4)
        lists = {"heads": heads, "good": heads, "bad": heads, "gains": gains}
        return lists.get(option.name, st.lists(st.integers(0, 4095), min_size=1, max_size=3)) | st.just(option.default)
    if option.kind == "word":
        return st.sampled_from(option.words) if option.words else TEXT
    integer = st.integers(int(option.at_least or 0), 1000)
    drawn = {"switch": st.booleans(), "integer": integer, "number": number}[option.kind]
    return drawn | st.sampled_from(option.words) if option.words else drawn


@st.composite
def _methods(draw: st.DrawFn) -> Method:
    kind = known_methods()[draw(st.sampled_from(NAMES))]
    return kind(**{one.name: draw(_values(one)) for one in kind.options() if draw(st.booleans())})


@settings(max_examples=400, deadline=None)
@given(_methods())
def test_a_word_gives_the_method_back(method: Method) -> None:
    assert parse_method(method.word()) == method


@settings(max_examples=200, deadline=None)
@given(st.lists(_methods(), max_size=4))
def test_words_give_the_mitigation_back(methods: list[Method]) -> None:
    contrasts = [one for one in methods if isinstance(one, vlm_heads.Contrast)]
    checks = [one for one in methods if isinstance(one, vlm_heads.Check)]
    pipelines = [one for one in methods if isinstance(one, vlm_heads.Pipeline)]
    inside = [one for one in methods if one not in [*contrasts, *checks, *pipelines]]
    made = Mitigation.of(inside, contrasts[:1], checks[:1], pipelines[:1])
    assert Mitigation.parse(made.word()) == made
    assert parse_mitigation(made.words()) == made


@pytest.mark.parametrize("name", NAMES)
def test_a_word_states_what_differs_from_the_default(name: str) -> None:
    assert known_methods()[name]().word() == name


def test_lists_are_written_as_they_are_read() -> None:
    gains = StaticGains(gains=((14, 3, 2.0), (-1, 0, 0.5)))
    assert gains.word() == "reinforced:gains=14.3:2+-1.0:0.5"
    assert StaticGains(gains="14.3:2+-1.0:0.5") == gains
    assert TextBoundHeads(heads="14.3+17.0") == TextBoundHeads(heads=[(14, 3), (17, 0)])
    assert HeadReinforcement(layers=2) == HeadReinforcement(layers=[2])


def test_a_text_with_spaces_and_commas_is_quoted() -> None:
    word = Mitigation.parse('vhr icd:instruction="Look away, \\"please\\".",alpha=0.5').words()[1]
    assert word == 'icd:alpha=0.5,instruction="Look away, \\"please\\"."'
    assert parse_mitigation(["icd:instruction=Look away."]).words() == ('icd:instruction="Look away."',)


@pytest.mark.parametrize("wrong", ['icd:instruction="Look', "vhr gain=2", "vhr vcd m3id"])
def test_a_text_that_cannot_be_read_is_refused(wrong: str) -> None:
    with pytest.raises(errors.BadOption):
        Mitigation.parse(wrong)


def test_two_contrasts_checks_or_profiles_are_refused() -> None:
    profiles = [HeadProfile(torch.ones(3, 4)), HeadProfile(torch.ones(3, 4))]
    with pytest.raises(errors.BadOption, match="both second streams"):
        Mitigation.of(NoisedImage(), FadingImage())
    with pytest.raises(errors.BadOption, match="both check what is said"):
        Mitigation.parse("askback vhr askback:by=both")
    with pytest.raises(errors.BadOption, match="profile"):
        Mitigation.of(*(Mitigation(profile=one) for one in profiles))
    assert Mitigation.of(*(Mitigation(profile=one) for one in profiles), profile=profiles[1]).profile is profiles[1]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    profile = HeadProfile(torch.rand(3, 4), gains=torch.rand(3, 4))
    made = Mitigation((StaticGains(), ImageBoost(0.2)), NoisedImage(alpha=0.25), profile)
    made.save_pretrained(tmp_path / "here")
    again = Mitigation.from_pretrained(tmp_path / "here")
    assert (again.interventions, again.contrast) == (made.interventions, made.contrast)
    assert again.profile is not None
    assert profile.gains is not None
    assert torch.equal(again.profile.gains, profile.gains)  # type: ignore[arg-type]
    Mitigation((ImageBoost(),)).save_pretrained(tmp_path / "other")
    assert Mitigation.from_pretrained(tmp_path / "other") == Mitigation((ImageBoost(),))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        ("{", "damaged"),
        ("[]", "names no methods"),
        (json.dumps({"methods": ["vrh"]}), "did you mean 'vhr'"),
        (json.dumps({"methods": ["vhr"], "profile": True}), "no head profile"),
    ],
)
def test_a_damaged_folder_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "mitigation.json").write_text(content)
    with pytest.raises(errors.VlmHeadsError, match=said):
        Mitigation.from_pretrained(tmp_path)
    with pytest.raises(errors.BadOption, match="no mitigation"):
        Mitigation.from_pretrained(tmp_path / "nowhere")


class _Hub:
    """Keeps what would be uploaded."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def create_repo(self, repo_id: str, **_: Any) -> str:
        return f"https://hub/{repo_id}"

    def upload_folder(self, folder_path: str, **_: Any) -> None:
        self.files = {path.name for path in Path(folder_path).iterdir()}


def test_a_mitigation_is_pushed_with_its_profile() -> None:
    hub = _Hub()
    made = Mitigation((StaticGains(),), profile=HeadProfile(torch.ones(3, 4), gains=torch.ones(3, 4)))
    assert made.push_to_hub("me/mine", api=hub) == "https://hub/me/mine"  # type: ignore[arg-type]
    assert {"mitigation.json", "head_profile.safetensors", "head_profile.json"} <= hub.files


@pytest.fixture(scope="module")
def planted() -> VLM:
    return VLM.from_pretrained("planted")


@pytest.mark.parametrize(
    "what",
    [
        (HeadReinforcement(),),
        ([HeadReinforcement()],),
        ("vhr",),
        ("vhr:gain=2 pai:strength=0.001",),
        ("vhr", ImageBoost(0.001)),
        (Mitigation((HeadReinforcement(),)),),
    ],
    ids=["one", "a list", "a word", "two words", "a word and an instance", "a mitigation"],
)
def test_everything_that_can_be_attached(what: tuple[Any, ...], planted: VLM) -> None:
    inputs = planted.inputs([planted_image("car")], "what do you see?")
    expected = planted.answer(planted_image("car"), "what do you see?", [HeadReinforcement()])
    with attach(planted.model, *what, allow_idle=True):
        ids = planted.model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert planted.processor.tokenizer.decode(ids[0], skip_special_tokens=True).strip().endswith(expected.text)
    assert planted.answer(planted_image("car"), "what do you see?", list(what)).text == expected.text


def test_a_whole_mitigation_answers(planted: VLM) -> None:
    picture, question = planted_image("banana"), "what do you see?"
    whole = Mitigation.parse("vhr pai-contrast:gamma=1.5")
    assert planted.answer(picture, question, whole).text == "there is a banana."
    assert "".join(planted.stream(picture, question, whole)) == "there is a banana."


def test_a_method_has_to_say_what_it_does() -> None:
    with pytest.raises(TypeError, match="abstract"):
        vlm_heads.Intervention()  # type: ignore[abstract]
