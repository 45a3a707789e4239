"""The `small` that ships: it sees, it answers, and its language model is still itself."""

import pytest
from PIL import Image
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes import text
from vlm_evals.scenes.catalog import CATEGORIES
from vlm_evals.scenes.small.base import load_base
from vlm_evals.scenes.small.itself import beside_base
from vlm_evals.scenes.small.package import shipped_weights
from vlm_evals.scenes.small.weights import read_weights
from vlm_evals.scenes.world import scenes
from vlm_evals.text.objects import ObjectFinder

from tests.support.installed_base import needs_base
from vlm_heads import VLM

pytestmark = needs_base
SCENES = list(scenes("held-out", 5, 12))
PICTURES = [Image.fromarray(scene.image) for scene in SCENES]
SHOWN = [{CATEGORIES[category].name for category in scene.categories} for scene in SCENES]


@pytest.fixture(scope="module")
def small() -> VLM:
    return VLM.from_pretrained("small", device="cpu")


def test_its_weights_are_small_and_say_where_they_come_from() -> None:
    assert shipped_weights().stat().st_size < 16_000_000
    assert {"seed", "rows", "base"} <= read_weights(shipped_weights()).facts.keys()


def test_it_names_what_is_shown_and_not_what_another_picture_shows(small: VLM) -> None:
    finder = ObjectFinder()
    said = [
        {one.node for one in finder.find(answer.text).mentions} for answer in small.answer_batch(PICTURES, DESCRIBE)
    ]
    own = sum(len(a & b) for a, b in zip(said, SHOWN, strict=True))
    other = sum(len(a & b) for a, b in zip(said, [*SHOWN[1:], SHOWN[0]], strict=True))
    shown = sum(map(len, SHOWN))
    assert own / shown > 0.65
    assert other / shown < 0.25


def test_it_tells_what_is_there_from_what_is_not(small: VLM) -> None:
    present = [text.question(scene.categories[0]) for scene in SCENES]
    absent = [text.question(next(c for c in range(len(CATEGORIES)) if c not in scene.categories)) for scene in SCENES]
    yes = [answer.text for answer in small.answer_batch(PICTURES, present, max_new_tokens=3)]
    no = [answer.text for answer in small.answer_batch(PICTURES, absent, max_new_tokens=3)]
    assert sum(one.startswith("Yes") for one in yes) + sum(one.startswith("No") for one in no) >= 20


def test_its_language_model_is_still_itself(small: VLM) -> None:
    itself = beside_base(small.model, small.processor.tokenizer, load_base())
    assert 1.0 < itself.ratio < 1.3
    assert "Paris" in itself.answer
