"""Hiding a part of the picture, and which words used a patch."""

from collections.abc import Iterator

import pytest
from PIL import Image
from vlm_app.session import Session
from vlm_app.view import html, words
from vlm_app.view.facts import Patches
from vlm_app.view.hiding import covered, hidden, hide
from vlm_app.view.recipe import Recipe
from vlm_app.view.truth import Judged

from vlm_heads import VLM
from vlm_heads.errors import BadOption

CAR = "sample:planted-car"
SQUARE = (0.2, 0.2, 0.6, 0.6)  # the car lies at 0.25 .. 0.75


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    made = Session(VLM.from_pretrained("planted"))
    yield made
    made.close()


def test_a_part_gets_the_mean_colour_and_the_rest_stays() -> None:
    picture = Image.new("RGB", (10, 10), (0, 0, 0))
    picture.paste((200, 100, 0), (0, 0, 5, 10))  # half: the mean is (100, 50, 0)
    found = hidden(picture, (0.0, 0.0, 0.5, 0.5))
    assert found.getpixel((2, 2)) == (100, 50, 0)
    assert found.getpixel((2, 7)) == (200, 100, 0)
    assert found.getpixel((7, 2)) == (0, 0, 0)
    assert picture.getpixel((2, 2)) == (200, 100, 0)  # the picture itself is left alone


def test_how_much_of_a_box_is_covered() -> None:
    # the right half of a unit square, and of it the lower half: a quarter
    assert covered((0.0, 0.0, 1.0, 1.0), (0.5, 0.0, 0.5, 1.0)) == pytest.approx(0.5)
    assert covered((0.0, 0.0, 1.0, 1.0), (0.5, 0.5, 1.0, 1.0)) == pytest.approx(0.25)
    assert covered((0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 0.1, 0.1)) == 0.0


def test_what_is_hidden_is_not_in_the_picture_any_more(session: Session) -> None:
    picture = session.sample("planted-car")
    assert hide(picture, SQUARE).objects == frozenset()
    assert hide(picture, (0.0, 0.0, 0.3, 0.3)).objects == {"car"}  # a corner of it
    *_, screen = session.visit("a").run(picture, Recipe(CAR, hidden=SQUARE))
    assert screen.truth is not None
    assert screen.mitigated is not None
    assert "car" not in screen.mitigated.side.text  # the model does not see it either
    assert all(isinstance(one, Judged) and not one.found and not one.missed for one in screen.truth.sides)


def test_a_hidden_part_is_in_the_link_and_in_the_python(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(CAR, hidden=SQUARE, max_tokens=8)
    assert Recipe.from_query(recipe.query()) == recipe
    list(session.visit("b").run(session.sample("planted-car"), recipe))
    capsys.readouterr()
    exec(recipe.python("planted"), {})
    assert capsys.readouterr().out.splitlines() == [side.text for side in session.visit("b").sides]
    assert recipe.command().startswith("# a part of the picture is hidden")
    assert Recipe(CAR).differences(recipe) == ("max_tokens 96 is now 8", "another part of the picture is hidden")


@pytest.mark.parametrize("query", ["hidden=0.1,0.2", "hidden=0,0,2,1", "hidden=a,b,c,d"])
def test_a_hidden_part_that_is_none_is_refused(query: str) -> None:
    with pytest.raises(BadOption, match="hidden"):
        Recipe.from_query(query)


def test_a_patch_shows_which_words_used_it(session: Session) -> None:
    visit = session.visit("c")
    list(visit.run(session.sample("planted-car"), Recipe(CAR)))
    inside = visit.look()
    assert inside is not None
    assert inside.grid is not None
    centre = (inside.grid.rows // 2) * inside.grid.columns + inside.grid.columns // 2  # on the red square
    visit.pick_patch(centre)
    by_side = {strip.side: strip for strip in inside.strips()}
    used = by_side["mitigated"].used
    assert used is not None
    assert max(range(len(used)), key=used.__getitem__) == 3  # “car”, the only word that the picture is read for
    for side, mitigated in (("plain", 0), ("mitigated", 1)):  # the same numbers that the maps show
        for token in range(len(inside.said[side].tokens)):
            inside.pick_token(side, token)
            weights = inside.weights()[mitigated]
            assert weights is not None
            strip = next(one for one in inside.strips() if one.side == side)
            assert strip.used is not None
            assert strip.used[token] == pytest.approx(float(weights[centre]))
    assert "% of its attention on this patch" in words.token(by_side["mitigated"], 3)
    assert "Which words used the chosen patch" in html.strips(inside.strips())
    found = inside.patches()
    assert isinstance(found, Patches)
    assert html.patches(found).count('aria-pressed="true"') == 2  # on both maps
    visit.pick_patch(centre)  # again: back to T-VHD
    assert all(strip.used is None for strip in inside.strips())
    visit.pick_patch(9999)
    assert inside.patch is None
