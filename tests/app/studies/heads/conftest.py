"""Scenes that the planted model can see, and a model of the world with what it says of a few scenes."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from vlm_app.studies.findings.captions import Caption, greedy_captions
from vlm_app.studies.heads.asked import Beginning, Place, Rows, beginning_of, caption_rows
from vlm_app.studies.heads.blocks import Block
from vlm_app.studies.heads.words import object_tokens
from vlm_evals.scenes.catalog import INDEX
from vlm_evals.scenes.world import BACKGROUND, Instance, Scene, scenes

from tests.support.families import build
from tests.support.heads import Case
from vlm_heads import VLM, examine
from vlm_heads.models import planted_image

SEEN = ("car", "broccoli", "banana", "bird")


@pytest.fixture(scope="session")
def mini() -> VLM:
    return VLM.from_pretrained("mini")


@pytest.fixture(scope="session")
def world() -> list[Scene]:
    """Four validation scenes."""
    return list(scenes("validation", 7, 4))


@pytest.fixture(scope="session")
def said(mini: VLM, world: list[Scene]) -> list[Caption]:
    return greedy_captions(mini, world)


@pytest.fixture(scope="session")
def begun(mini: VLM, world: list[Scene]) -> Beginning:
    return beginning_of(mini, world)


@pytest.fixture(scope="session")
def captioned(mini: VLM, world: list[Scene], said: list[Caption], begun: Beginning) -> Rows:
    rows = caption_rows(mini, begun, world, said)
    assert rows is not None
    return rows


@pytest.fixture(params=["mini", "grouped keys"])
def case(request: pytest.FixtureRequest, mini: VLM, begun: Beginning, captioned: Rows) -> Case:
    """The world's model with captions, and a tiny random model with grouped keys and arbitrary text."""
    if request.param == "mini":
        return Case(mini, begun, captioned, object_tokens(mini.processor.tokenizer))
    tiny = build("llava")
    anatomy = examine(tiny.model)
    assert anatomy.key_heads < anatomy.heads
    length = int((tiny.inputs["input_ids"][0] == anatomy.image_token_id).nonzero()[-1]) + 1
    cut = {**tiny.inputs, "input_ids": tiny.inputs["input_ids"][:, :length]}
    places = (Place("faithful", 0, 2, 7, None, "dog"), Place("present", 0, 5, 8, 9, "cup"))
    rows = Rows(torch.tensor([[5, 6, 7, 8, 9, 10]]), places)
    return Case(VLM(tiny.model, None, "tiny"), Beginning(cut, length), rows, [5, 6, 7])


def planted_scene(word: str) -> Scene:
    """Return a scene that shows one object, as the planted model sees it."""
    image = np.asarray(planted_image(word))
    return Scene(0, image, np.full((112, 112), BACKGROUND, np.uint8), (Instance(INDEX[word], (0, 0, 1, 1), 1),))


def planted_caption(vlm: VLM, word: str) -> Caption:
    text = f"there is a {word} ."
    ids = vlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Caption(tuple(ids), (1.0,) * len(ids), text)


@pytest.fixture
def planted(tmp_path: Path) -> Block:
    """Every object that the planted model sees, named once as it is, and once called a dog."""
    vlm = VLM.from_pretrained("planted")
    captions = [planted_caption(vlm, word) for word in SEEN] + [planted_caption(vlm, "dog")] * len(SEEN)
    (tmp_path / "captions.json").write_text(json.dumps({"captions": [asdict(one) for one in captions]}))
    return Block(vlm, tmp_path, [planted_scene(word) for word in SEEN * 2], start=0, seed=7)
