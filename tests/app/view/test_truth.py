"""What is true of the answers: found, missed and invented objects, yes and no, and pictures of one's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from vlm_app.pictures import told_objects
from vlm_app.session import Session
from vlm_app.view import html
from vlm_app.view.marks import Marker
from vlm_app.view.recipe import Recipe
from vlm_app.view.truth import Judged, Replied, asked_objects, judged, replied
from vlm_app.view.truth_html import truth
from vlm_evals.scenes.samples import boxes, sample_path
from vlm_evals.scenes.samples import truth as sample_truth

from vlm_heads import VLM
from vlm_heads.errors import BadOption
from vlm_heads.models import load_image, planted_image

CAR = "sample:planted-car"


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    made = Session(VLM.from_pretrained("planted"))
    yield made
    made.close()


def test_what_is_found_missed_and_invented() -> None:
    # the picture: sheep, bird. said: a dog, a sheep, the sheep again
    named = Marker().named("A dog and a sheep. The sheep sleeps.", {"sheep", "bird"})
    found = judged("Plain", named, ["sheep", "bird"])
    assert found == Judged("Plain", found=("sheep",), missed=("bird",), invented=("dog",))


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("Is there a dog in the image?", ("dog",)),
        ("are there two cups and a dog? Say yes or no.", ("cup", "dog")),
        ("Is there a dog? The cat is mine.", ("dog",)),
        ("Is the dog asleep?", ()),
        ("Please describe the dog.", ()),
        ("Is there anything?", ()),
    ],
)
def test_what_a_question_asks_about(prompt: str, asked: tuple[str, ...]) -> None:
    assert asked_objects(prompt, Marker().named(prompt, None)) == asked


@pytest.mark.parametrize(
    ("text", "asked", "expected"),
    [
        ("Yes, there is a dog.", ("dog",), ("yes", "yes")),
        ("No.", ("dog",), ("no", "yes")),
        ("Yes.", ("dog", "cat"), ("yes", "no")),  # both must be there
        ("Perhaps.", ("cat",), ("neither", "no")),
    ],
)
def test_a_yes_or_no_is_judged(text: str, asked: tuple[str, ...], expected: tuple[str, str]) -> None:
    one = replied("Plain", text, asked, {"dog"})
    assert (one.said, one.right) == expected


def test_a_question_about_a_sample_is_answered_right_or_wrong(session: Session) -> None:
    picture = session.sample("planted-car")
    recipe = Recipe(CAR, prompt="Is there a car in the image?")
    *_, screen = session.visit("asks").run(picture, recipe)
    assert screen.truth is not None
    assert all(isinstance(one, Replied) and one.right == "yes" for one in screen.truth.sides)
    assert "counts as wrong (car: in the picture)" in truth(screen.truth)  # the planted model only describes
    assert screen.plain is not None
    assert not screen.plain.named  # what it repeats of the question is no claim


def test_both_answers_are_judged_and_each_box_lies_where_the_object_is(session: Session) -> None:
    *_, screen = session.visit("runs").run(session.sample("planted-car"), Recipe(CAR))
    assert screen.truth is not None
    assert screen.truth.sides == (
        Judged("Plain", missed=("car",), invented=("dog",)),
        Judged("Mitigated", found=("car",)),
    )
    shown = truth(screen.truth)
    assert '<rect data-boxed="car" x="24.0" y="24.0" width="48.0" height="48.0"/>' in shown  # a square amid 96 x 96
    assert 'class="vh-object vh-not-there" data-object="dog"' in shown


def test_every_object_of_every_sample_has_boxes_inside_its_picture() -> None:
    for name, objects in sample_truth().items():
        width, height = load_image(sample_path(name)).size
        assert set(boxes()[name]) == set(objects)
        for left, top, wide, tall in (box for places in boxes()[name].values() for box in places):
            assert 0 <= left < left + wide <= width
            assert 0 <= top < top + tall <= height


def test_objects_are_told_in_words() -> None:
    assert told_objects("dog, two chairs and a cell phone") == {"dog", "chair", "cell phone"}
    assert told_objects(" , ") is None
    with pytest.raises(BadOption, match="'unicorn' is none of the 80 objects"):
        told_objects("dog, unicorn")


def test_a_picture_of_ones_own_is_judged_once_somebody_says_what_it_shows(session: Session, tmp_path: Path) -> None:
    planted_image("bird").save(tmp_path / "mine.png")
    visit = session.visit("own")
    *_, screen = visit.run(session.own(tmp_path / "mine.png"), Recipe("mine.png"))
    assert screen.truth is None
    assert truth(screen.truth) == ""
    visit.look()
    visit.tell("bird")
    told = visit.screen()
    assert told.truth is not None
    assert [one.invented for one in told.truth.sides if isinstance(one, Judged)] == [("dog",), ()]
    assert "where it lies is not known" in truth(told.truth)
    assert visit.inside is not None
    assert "vh-absent-token" in html.strips(visit.inside.strips())
    visit.tell("")
    assert visit.screen().truth is None
