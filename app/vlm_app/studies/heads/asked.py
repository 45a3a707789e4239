"""What is asked about scenes: their captions, read again token by token, and POPE's question about two objects.

Everything that is asked about a picture begins alike, up to its last image position. What follows is a row.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vlm_evals.data.pope_questions import question_text
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.catalog import CATEGORIES
from vlm_evals.scenes.world import Scene, draw_category, plausible
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.places import pieces_that_mention

from vlm_app.studies.findings.captions import Caption, picture_of, shown_in
from vlm_app.studies.heads.words import deciding_piece, yes_and_no
from vlm_heads import VLM, UnsupportedModel, examine
from vlm_heads.scorers import pieces_of

MENTIONS, QUESTIONS = ("faithful", "invented"), ("present", "absent")
KINDS = (*MENTIONS, *QUESTIONS)


@dataclass(frozen=True)
class Place:
    """Where a model decides.

    Attributes:
        kind: "faithful" or "invented" first mention of an object, a question about a "present" or "absent" one,
            "other", any other word of a caption, or "stop": behind a full stop, where a caption may end.
        scene: number of the scene in its block.
        column: in its row, of the position that predicts the deciding token.
        token: the deciding one; of a question, yes.
        against: of a question, no; its log-probability is taken off.
        node: the object.
    """

    kind: str
    scene: int
    column: int
    token: int
    against: int | None
    node: str


@dataclass(frozen=True)
class Rows:
    """What follows the pictures of a block, one row for each.

    Attributes:
        ids: int64 `[S, R]`, filled up on the right with tokens that nobody reads.
        places: where the model decides.
    """

    ids: Tensor
    places: tuple[Place, ...]

    @property
    def scenes(self) -> Tensor:
        """int64 `[n]`: row of each place."""
        return torch.tensor([place.scene for place in self.places])

    @property
    def columns(self) -> Tensor:
        """int64 `[n]`: column of each place."""
        return torch.tensor([place.column for place in self.places])


@dataclass(frozen=True)
class Beginning:
    """What everything that is asked about the pictures of a block begins with.

    Attributes:
        inputs: of the model's forward.
        length: columns, up to the last image position.
    """

    inputs: dict[str, Any]
    length: int


def beginning_of(vlm: VLM, pictures: Sequence[Scene]) -> Beginning:
    """Return the common beginning of all that is asked about pictures."""
    inputs = vlm.inputs([picture_of(scene) for scene in pictures], DESCRIBE)
    ids: Tensor = inputs["input_ids"]
    length = int((ids[0] == examine(vlm.model).image_token_id).nonzero()[-1]) + 1
    cut = {
        name: value[:, :length] if isinstance(value, Tensor) and value.shape == ids.shape else value
        for name, value in inputs.items()
    }
    return Beginning(cut, length)


def caption_rows(
    vlm: VLM, beginning: Beginning, pictures: Sequence[Scene], captions: Sequence[Caption], *, others: bool = False
) -> Rows | None:
    """Return captions after their prompt, and where each first names an object; None where none names one.

    Args:
        vlm: the model.
        beginning: of these pictures.
        pictures: a block of scenes.
        captions: what was said of them.
        others: whether every other word of the captions is a place of the kind "other".
    """
    question = _question(vlm, beginning, pictures[0], DESCRIBE)
    finder, places = ObjectFinder(), list[Place]()
    for number, (scene, caption) in enumerate(zip(pictures, captions, strict=True)):
        shown, known = shown_in(scene), set[str]()
        pieces = pieces_of(vlm.processor.tokenizer, caption.ids)
        for placed in pieces_that_mention(finder, pieces):
            if placed.node not in known:
                known.add(placed.node)
                at = deciding_piece(pieces, placed)
                kind = "faithful" if placed.node in shown else "invented"
                places.append(Place(kind, number, len(question) + at - 1, caption.ids[at], None, placed.node))
    if not places:
        return None
    if others:
        places += _others(places, captions, len(question) - 1)
    longest = 1 + max(place.column for place in places)
    said = [[*question, *caption.ids][:longest] for caption in captions]
    return Rows(_filled(beginning, said), tuple(places))


def _others(mentions: Sequence[Place], captions: Sequence[Caption], first: int) -> list[Place]:
    """Return the places of captions that decide for no first mention; the first token is predicted at `first`."""
    known = {(place.scene, place.column) for place in mentions}
    return [
        Place("other", number, first + at, token, None, "")
        for number, caption in enumerate(captions)
        for at, token in enumerate(caption.ids)
        if (number, first + at) not in known
    ]


def question_rows(
    vlm: VLM, beginning: Beginning, pictures: Sequence[Scene], kind: str, seed: int, start: int
) -> Rows | None:
    """Return POPE's question about an object that is there, or about one that would fit and is not.

    Args:
        vlm: the model.
        beginning: of these pictures.
        pictures: a block of scenes.
        kind: "present" or "absent".
        seed: draws the objects.
        start: number of the block's first scene among all.

    Returns:
        One row for each scene; None where the model's vocabulary has no yes and no.
    """
    answers = yes_and_no(vlm.processor.tokenizer)
    if answers is None:
        return None
    asked, places = list[list[int]](), list[Place]()
    for number, scene in enumerate(pictures):
        node = _object(scene, kind, random.Random(f"{seed}/{start + number}/{kind}"))
        asked.append(_question(vlm, beginning, scene, question_text(node)))
        places.append(Place(kind, number, len(asked[-1]) - 1, *answers, node))
    return Rows(_filled(beginning, asked), tuple(places))


def _object(scene: Scene, kind: str, rng: random.Random) -> str:
    if kind == "present":
        return CATEGORIES[rng.choice(scene.categories)].name
    return CATEGORIES[draw_category(rng.random(), plausible(scene.kind, scene.categories))].name


def _question(vlm: VLM, beginning: Beginning, scene: Scene, text: str) -> list[int]:
    """Return the ids of a prompt after its picture.

    Raises:
        UnsupportedModel: if prompts do not begin alike up to their picture's end.
    """
    ids: Tensor = vlm.inputs([picture_of(scene)], [text])["input_ids"][0]
    if not torch.equal(ids[: beginning.length], beginning.inputs["input_ids"][0]):
        raise UnsupportedModel(
            f"{vlm.name}: its prompts say something of the question before the picture; a model whose prompts begin "
            "with the picture is needed"
        )
    rest: list[int] = ids[beginning.length :].tolist()
    return rest


def _filled(beginning: Beginning, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows as one tensor; they end in zeros, which no position before them sees."""
    longest = max(map(len, rows))
    ids: Tensor = beginning.inputs["input_ids"]
    return ids.new_tensor([[*row, *[0] * (longest - len(row))] for row in rows])
