"""A recipe: what is asked, as data, and the link that brings it back."""

import pytest
from vlm_app.view.recipe import LONGEST_PROMPT, Recipe

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
