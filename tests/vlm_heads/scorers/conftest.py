"""Models and samples that heads are scored on."""

import pytest

from tests.support.scored import Scored, random_model
from vlm_heads.models.planted import COLOURS, build_planted, planted_image
from vlm_heads.scorers import Example, Mention

PROMPTS = ["what ?", "please describe this image", "what do you see", "see"]


@pytest.fixture(params=[4, 2, 1], ids=["own keys", "grouped keys", "one key head"])
def scored(request: pytest.FixtureRequest) -> Scored:
    """A random model of 4 layers with 4 heads, whose heads have keys of their own or share them."""
    return random_model(request.param)


@pytest.fixture(scope="session")
def planted() -> Scored:
    model, processor = build_planted()
    return model, processor


@pytest.fixture
def asked() -> list[Example]:
    """Four pictures with prompts of different lengths."""
    return [Example(planted_image(word), prompt) for word, prompt in zip(COLOURS, PROMPTS, strict=True)]


@pytest.fixture
def judged() -> list[Example]:
    """Each picture with its object named, which lies on the four patches in its middle, and with a dog named."""
    middle = (5, 6, 9, 10)
    right = [
        Example(planted_image(word), "what ?", f"there is a {word}.", (Mention(word, True, middle),))
        for word in COLOURS
    ]
    wrong = [Example(planted_image(word), "see ?", "there is a dog.", (Mention("dog", False),)) for word in COLOURS]
    return [*right, *wrong]


@pytest.fixture
def questions() -> list[Example]:
    """Two questions about objects that are there, and one about one that is not."""
    return [
        Example(planted_image("car"), "do you see a car ?", truth=True, mentions=(Mention("car", True, (5, 6)),)),
        Example(planted_image("bird"), "what do you see ? a bird", truth=True, mentions=(Mention("bird", True, (9,)),)),
        Example(planted_image("car"), "do you see a dog ?", truth=False, mentions=(Mention("dog", False),)),
    ]
