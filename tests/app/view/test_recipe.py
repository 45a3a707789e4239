"""A recipe: what is asked, as data, and the link that brings it back."""

from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vlm_app.view.form import values_of, words_of
from vlm_app.view.recipe import LONGEST_PROMPT, MOST_PARAMETERS, Recipe

from vlm_heads import known_methods, parse_mitigation
from vlm_heads.errors import BadOption

CAR = "sample:planted-car"


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(CAR, "Is there a car?", ("vhr:gain=1.5,layers=1+18-31", "pai", "vcd"), 12, 0.7, 0.9, 3),
        Recipe(CAR, words=()),
        Recipe(CAR, 'a "quoted" & odd ? prompt', ()),
    ],
)
def test_a_link_brings_the_state_back(recipe: Recipe) -> None:
    assert Recipe.from_query(recipe.query()) == recipe


@pytest.mark.parametrize(
    "query", ["seed=x", "temperature=-1", "with=vrh", "max_tokens=0", "with=vhr:gian=2", "top_p=2"]
)
def test_a_broken_link_is_refused_in_a_line(query: str) -> None:
    with pytest.raises(BadOption):
        Recipe.from_query(query)


def test_ones_own_picture_is_in_no_link() -> None:
    assert "image" not in Recipe("holiday.png").query()
    assert "holiday" not in Recipe("holiday.png").query()


def test_a_prompt_of_any_length_is_not_taken() -> None:
    assert len(Recipe(prompt="a" * LONGEST_PROMPT).prompt) == LONGEST_PROMPT
    with pytest.raises(BadOption, match=r"2,001 characters.*2,000"):
        Recipe(prompt="a" * (LONGEST_PROMPT + 1))


ABSURD = [
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1e400",
    "9" * 400,
    "9" * 5000,
    "-" + "9" * 400,
    "1_0",
    "²",
    "٣",
    "",
    " ",
    "0-99999999999",
]
ABSURD += [
    "5-3",
    "0-99999+0-99999",
    "9" * 5000 + ".0",
    "0.0:1e999",
    "0." + "9" * 5000,
    "1e400.0",
    '"',
    '"\\ud800"',
    "\x00",
    "a" * 20_000,
]
NAMES = ["image", "prompt", "max_tokens", "temperature", "top_p", "seed", "with", "picture", "__theme"]


def _words() -> st.SearchStrategy[str]:
    """Every option of every method, at values that nobody means."""
    options = [(name, one.name) for name, kind in known_methods().items() for one in kind.options()]
    value = st.one_of(st.sampled_from(ABSURD), st.floats().map(str), st.integers().map(str), st.text(max_size=20))
    return st.builds(lambda option, value: f"{option[0]}:{option[1]}={value}", st.sampled_from(options), value)


def _queries() -> st.SearchStrategy[str]:
    value = st.one_of(
        st.sampled_from(ABSURD), _words(), st.text(max_size=40), st.sampled_from(["vhr", "vcd", "vrh", CAR])
    )
    pairs = st.lists(st.tuples(st.sampled_from(NAMES), value), max_size=6)
    return st.one_of(pairs.map(lambda some: urlencode(some, errors="surrogatepass")), st.text(max_size=200))


@settings(max_examples=400, deadline=None)
@given(_queries())
def test_whatever_a_link_says_is_followed_or_refused(query: str) -> None:
    refused = ""
    try:
        recipe = Recipe.from_query(query)
        chosen, values = values_of(recipe.words)
    except BadOption as mistake:
        refused = str(mistake)
    assert len(refused) < 1000
    if refused:
        return
    again = Recipe.from_query(recipe.query())  # a file's name is in no link, all the rest is
    assert Recipe.from_query(again.query()) == again
    assert parse_mitigation(words_of(chosen, values)) == _in_order(recipe, chosen)


def _in_order(recipe: Recipe, chosen: list[str]) -> object:
    """The mitigation of a recipe with its interventions as the form lists them."""
    return parse_mitigation(sorted(recipe.mitigation.words(), key=lambda word: chosen.index(word.partition(":")[0])))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("seed=1e400", "seed=1e400 in the link is no whole number"),
        ("seed=" + "9" * 400, r"seed=9{80}…: a finite number, 0\.\.4294967295, is needed"),
        ("seed=" + "9" * 5000, "seed=9{80}… in the link is no whole number"),
        ("max_tokens=99999999999", r"max_tokens=99999999999: a finite number, 1\.\.512, is needed"),
        ("temperature=nan", "temperature=nan: a finite number"),
        ("temperature=1e400", "temperature=inf: a finite number"),
        ("&".join(["with=vhr"] * (MOST_PARAMETERS + 1)), "more than 100 parameters"),
        ("with=" + "a" * 20_000, "has 20,000 characters"),
        ("with=" + "a" * 5_000, "no intervention, lens, contrast, check or pipeline 'aaa"),
        ("with=vhr:layers=0-99999999999", "a whole number, at most 99999"),
        ("with=vhr:layers=" + "%2B".join(["0-90000"] * 9), "no model has so many"),
        ("with=vhr:layers=5-3", "the lower one comes first"),
        ("with=adhh:heads=" + "9" * 5000 + ".0", "a whole number, at most 99999"),
        ("with=var:sink_dims=²", "channel numbers"),
        ("with=vhr:seed=" + "9" * 400, "a finite number"),
    ],
    ids=lambda text: text[:30],
)
def test_an_absurd_link_is_refused_in_a_short_line(query: str, said: str) -> None:
    with pytest.raises(BadOption, match=said) as refused:
        Recipe.from_query(query)
    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("words", "said"), [(("vhr", "vhr:gain=3"), "twice"), (("reinforced",), "head profile")])
def test_what_the_form_cannot_hold_is_refused_and_not_dropped(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        values_of(words)


def test_a_number_is_not_rounded_in_silence() -> None:
    with pytest.raises(BadOption, match="whole number"):
        Recipe(seed=7.5)
