"""Options: read from words, checked where they are made, and never guessed."""

import re

import pytest

from vlm_heads import HeadReinforcement, errors, known_interventions, parse_intervention
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers
from vlm_heads.toolkit.options import options_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vhr", HeadReinforcement()),
        ("vhr:", HeadReinforcement()),
        (" vhr : gain = 1.5 ", HeadReinforcement(gain=1.5)),
        ("vhr:gain=1.5,layers=paper", HeadReinforcement(gain=1.5)),
        ("vhr:layers=last-half,heads=bottom", HeadReinforcement(layers="last-half", heads="bottom")),
        ("vhr:layers=1", HeadReinforcement(layers=(1,))),
        ("vhr:layers=1+18-20+-1", HeadReinforcement(layers=(1, 18, 19, 20, -1))),
        ("vhr:outlier_filter=off,unbiased_std=No", HeadReinforcement(outlier_filter=False, unbiased_std=False)),
        ("vhr:blind=two-pass,seed=3", HeadReinforcement(blind="two-pass", seed=3)),
    ],
)
def test_words_become_an_intervention(text: str, expected: HeadReinforcement) -> None:
    assert parse_intervention(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vrh", "did you mean 'vhr'"),
        ("", "known: "),
        ("vhr:gian=2", "did you mean 'gain'"),
        ("vhr:gain", "no value; write gain=2.0"),
        ("vhr:gain=", "no value"),
        ("vhr:gain=two", "a number is needed"),
        ("vhr:gain=nan", "finite"),
        ("vhr:gain=inf", "finite"),
        ("vhr:gain=-1", "at least 0"),
        ("vhr:seed=1.5", "integer is needed"),
        ("vhr:gain=1,gain=2", "given twice"),
        ("vhr:outlier_filter=maybe", "switch is needed"),
        ("vhr:heads=botom", "did you mean 'bottom'"),
        ("vhr:blind=2-pass", "two-pass"),
        ("vhr:layers=1..3", "joined by"),
        ("vhr:gain=2:layers=all", "number is needed"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(text: str, said: str) -> None:
    with pytest.raises(errors.BadOption, match=re.escape(said)):
        parse_intervention(text)


@pytest.mark.parametrize(
    "wrong", [{"gain": "2"}, {"gain": None}, {"gain": True}, {"gain": float("nan")}, {"blind": "x"}, {"heads": 3}]
)
def test_a_wrong_value_is_refused_where_it_is_made(wrong: dict[str, object]) -> None:
    with pytest.raises(errors.BadOption, match=next(iter(wrong))):
        HeadReinforcement(**wrong)


def test_options_are_listed_with_their_kinds() -> None:
    listed = {option.name: option for option in options_of(HeadReinforcement)}
    assert (listed["gain"].kind, listed["gain"].default) == ("number", 2.0)
    assert listed["layers"].kind == "layers"
    assert listed["outlier_filter"].kind == "switch"
    assert listed["blind"].words == ("plain", "lockstep", "two-pass")


@pytest.mark.parametrize("name", list(known_interventions()))
def test_every_option_of_every_intervention_can_be_written(name: str) -> None:
    kind = known_interventions()[name]
    for option in options_of(kind):
        if option.default is not None and not isinstance(option.default, tuple | list):
            assert parse_intervention(f"{name}:{option.name}={option.default}") == kind()


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [
        ("paper", 4, {1, 2}),
        ("all", 3, {0, 1, 2}),
        ("first-half", 5, {0, 1}),
        ("last-half", 5, {2, 3, 4}),
        ("inner", 6, {2, 3}),
        (2, 4, {2}),
        ([0, -1], 4, {0, 3}),
    ],
)
def test_layers_by_name_and_index(layers: Layers, depth: int, expected: set[int]) -> None:
    assert resolve_layers(layers, depth, paper=[1, 2]) == expected


@pytest.mark.parametrize(
    ("layers", "said"), [("lasthalf", "last-half"), ([4], "0..3"), ([-5], "0..3"), ([], "no layer")]
)
def test_layers_outside_the_model_are_refused(layers: Layers, said: str) -> None:
    with pytest.raises(errors.BadOption, match=re.escape(said)):
        resolve_layers(layers, 4, paper=[1])
