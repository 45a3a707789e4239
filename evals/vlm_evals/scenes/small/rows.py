"""Training rows for `small`: one picture, then everything said about it, side by side, and rows end to end.

A row is a prefix (the user's turn up to the picture, and the image positions) and slots, each a prompt and its answer.
A slot sees the prefix and itself but no other slot, and counts its positions from the end of the prefix. The rows of a
batch lie end to end in one sequence, so no position is padding.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlavaProcessor

from vlm_evals.scenes import text
from vlm_evals.scenes.batches import IGNORED, Diet, draw_scene, normalise
from vlm_evals.scenes.tokens import IMAGE_TOKENS
from vlm_evals.scenes.world import Scene

from .chat import BEFORE_ANSWER, BEFORE_IMAGE, END, encode

# A caption has some fifty tokens and a verdict one, which is learnt last: equal weights would leave it to the end.
VERDICT_WEIGHT = 3.0


@dataclass(frozen=True)
class Batch:
    """B rows end to end, N positions in all.

    Attributes:
        ids: int64 [N]; image positions hold the image token.
        labels: int64 [N], the token that position t predicts, IGNORED elsewhere.
        weights: float32 [N], of each label in the loss.
        positions: int64 [N].
        layout: for each row the length of its prefix, then of its slots.
        pixels: float32 [B, 3, S, S], normalised as the processor does it.
    """

    ids: Tensor
    labels: Tensor
    weights: Tensor
    positions: Tensor
    layout: tuple[tuple[int, ...], ...]
    pixels: Tensor


class Slot(NamedTuple):
    """Ids of a prompt and its answer, and the weight of the answer's first token in the loss."""

    prompt: list[int]
    answer: list[int]
    weight: float = 1.0


def slots(scene: Scene, diet: Diet, rng: random.Random, processor: LlavaProcessor) -> list[Slot]:
    """Return what is said about a scene: a caption, a list and questions, as the diet has them."""
    said: list[tuple[str, str]] = []
    if diet.caption:
        said.append((rng.choice(text.DESCRIBE_PROMPTS), text.caption(scene, rng, diet.noise)))
    if diet.listing:
        said.append((text.LIST, text.listing(scene, rng)))
    asked = text.questions(scene, diet.questions, rng)
    weights = [1.0] * len(said) + [VERDICT_WEIGHT] * len(asked)
    tokenizer = processor.tokenizer
    return [
        Slot(encode(tokenizer, f"\n{prompt}{BEFORE_ANSWER}"), encode(tokenizer, f"{answer}{END}"), weight)
        for (prompt, answer), weight in zip(said + asked, weights, strict=True)
    ]


def build_batch(diet: Diet, processor: LlavaProcessor, seed: int, first: int, size: int) -> Batch:
    """Return rows `first` … `first + size - 1` of a diet; they depend on the seed and their number alone."""
    scenes = [draw_scene(diet.worlds, seed, index) for index in range(first, first + size)]
    prefix = encode(processor.tokenizer, BEFORE_IMAGE) + [processor.image_token_id] * IMAGE_TOKENS
    ids: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    positions: list[int] = []
    layout = []
    for index, scene in enumerate(scenes, start=first):
        said = slots(scene, diet, random.Random(f"{seed}/{index}/text"), processor)
        ids += prefix
        labels += [IGNORED] * len(prefix)
        weights += [1.0] * len(prefix)
        positions += range(len(prefix))
        for prompt, answer, weight in said:
            length = len(prompt) + len(answer)
            ids += prompt + answer
            labels += [IGNORED] * (len(prompt) - 1) + answer + [IGNORED]
            weights += [1.0] * (len(prompt) - 1) + [weight] + [1.0] * len(answer)
            positions += range(len(prefix), len(prefix) + length)
        layout.append((len(prefix), *(len(prompt) + len(answer) for prompt, answer, _ in said)))
    return Batch(
        ids=torch.tensor(ids), labels=torch.tensor(labels), weights=torch.tensor(weights),
        positions=torch.tensor(positions), layout=tuple(layout), pixels=normalise([scene.image for scene in scenes]),
    )  # fmt: skip
