"""Examples that scorers need: the model's own captions, judged, and yes/no questions with their truth."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from vlm_evals.data.pope_questions import question_text
from vlm_evals.protocol import DESCRIBE

from vlm_app.scored_on.shown import Mask, Shown, absent_object
from vlm_app.view.grid import Grid, find_grid
from vlm_app.view.marks import Marker
from vlm_heads import VLM, UnsupportedModel
from vlm_heads.models import load_image
from vlm_heads.scorers import Example, Mention

About = Literal["captions", "questions"]
MOST_TOKENS = 128
BATCH = 16
COVERED = 0.5  # share of an image position that an object has to cover to lie on it

Advance = Callable[[int], object]


def captions_of(vlm: VLM, shown: Sequence[Shown], advance: Advance = lambda count: None) -> list[Example]:
    """Return the model's own greedy captions; every object they name is judged where it is named first.

    Args:
        vlm: the model.
        shown: pictures.
        advance: hears how many more are captioned.
    """
    marker, examples = Marker(), list[Example]()
    for start in range(0, len(shown), BATCH):
        batch = shown[start : start + BATCH]
        for one, ids in zip(batch, _said(vlm, batch), strict=True):
            text = vlm.processor.tokenizer.decode(ids, skip_special_tokens=True)
            named = {mark.node: mark for mark in reversed(marker.named(text, set(one.objects)))}
            mentions = tuple(
                Mention(text[mark.start : mark.end], bool(mark.shown), _places(vlm, one, mark.node))
                for mark in sorted(named.values(), key=lambda mark: mark.start)
            )
            examples.append(Example(one.image, DESCRIBE, tuple(ids), mentions))
        advance(len(batch))
    return examples


def questions_of(vlm: VLM, shown: Sequence[Shown], seed: int) -> Iterator[Example]:
    """Yield POPE's question about an object of each picture, and about one that others show.

    Args:
        vlm: the model.
        shown: pictures.
        seed: draws the objects.
    """
    for number, one in enumerate(shown):
        rng = random.Random(f"{seed}/{number}")
        present, absent = rng.choice(sorted(one.objects)), absent_object(one, shown, rng)
        where = _places(vlm, one, present)
        yield Example(one.image, question_text(present), mentions=(Mention(present, True, where),), truth=True)
        if absent is not None:
            yield Example(one.image, question_text(absent), mentions=(Mention(absent, False),), truth=False)


def _said(vlm: VLM, shown: Sequence[Shown]) -> list[list[int]]:
    """Return the token ids of greedy captions, without their ends."""
    inputs = vlm.inputs([load_image(one.image) for one in shown], DESCRIBE)
    with torch.inference_mode():
        output: Tensor = vlm.model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
    ends = vlm.model.generation_config.eos_token_id
    stops = set(ends) if isinstance(ends, list) else {ends}
    said = output[:, inputs["input_ids"].shape[1] :].tolist()
    return [ids[: next((at for at, one in enumerate(ids) if one in stops), len(ids))] for ids in said]


def _places(vlm: VLM, shown: Shown, name: str) -> tuple[int, ...]:
    """Return the image positions on which an object lies; none where the model or the data do not tell."""
    mask = shown.objects.get(name)
    if mask is None:
        return ()
    image = load_image(shown.image)
    try:
        grid = find_grid(vlm, image, vlm.inputs([image], DESCRIBE))
    except UnsupportedModel:
        return ()
    return places_on(grid, mask)


def places_on(grid: Grid, mask: Mask) -> tuple[int, ...]:
    """Return the image positions that a mask covers by half at least; the most covered one where it covers none so far.

    Args:
        grid: of the image positions.
        mask: bool `[height, width]`, of the upright picture.
    """
    height, width = mask.shape
    shares = []
    for position in range(grid.rows * grid.columns):
        left, top, wide, tall = grid.box(position)
        rows = slice(round(top * height), max(round((top + tall) * height), round(top * height) + 1))
        columns = slice(round(left * width), max(round((left + wide) * width), round(left * width) + 1))
        cell = mask[rows, columns]
        shares.append(float(cell.mean()) if cell.size else 0.0)
    covered = [position for position, share in enumerate(shares) if share >= COVERED]
    if not covered and max(shares) > 0:
        covered = [int(np.argmax(shares))]
    return tuple(covered)
