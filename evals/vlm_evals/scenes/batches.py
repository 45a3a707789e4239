"""Training rows: one picture, then everything said about it, side by side.

A row is a prefix (`<s> USER:` and the image positions) followed by slots, each holding a prompt and its answer. A slot
sees the prefix and itself but no other slot, and counts its positions from the end of the prefix. So a row teaches a
caption, a list and several questions for the price of one reading of the picture. A *blind* caption does not see the
image positions and counts from the end of the text. It teaches the language prior, and it makes the image-free pass an
ordinary input.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import text
from .catalog import CATEGORIES, SCENES
from .tokens import IMAGE_TOKENS, PATCH, encode, vocabulary
from .world import Distribution, Scene, patch_classes, sample_scene

IGNORED = -100
PREFIX = 2 + IMAGE_TOKENS  # <s> USER: and the image


@dataclass(frozen=True)
class Diet:
    """What training rows are made of.

    Attributes:
        worlds: (share, distribution) pairs that scenes are drawn from.
        caption, listing: whether a row has a caption and a list.
        questions: questions per row.
        blind: chance that the caption is a blind one.
        noise: how unfaithful captions are.
    """

    worlds: tuple[tuple[float, Distribution], ...]
    caption: bool = True
    listing: bool = False
    questions: int = 5
    blind: float = 0.15
    noise: text.CaptionNoise = field(default_factory=text.CaptionNoise)


@dataclass(frozen=True)
class Slots:
    """`count` neighbouring slots of `length` positions each."""

    count: int
    length: int


@dataclass(frozen=True)
class Batch:
    """Rows of one layout: the prefix, then the slots, T positions in all.

    Attributes:
        ids: int64 [B, T]; image positions hold the image token.
        labels: int64 [B, T], the token that position t predicts, IGNORED elsewhere.
        positions: int64 [B, T].
        layout: the slots in order; those that hold captions come first.
        blind: bool [B], whether the row's caption does not see the image.
        pixels: float32 [B, 3, S, S], normalised as the processor does it; empty where words stand for the picture.
        patches: int64 [B, image tokens], what each patch shows (see `patch_classes`).
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    layout: tuple[Slots, ...]
    blind: Tensor
    pixels: Tensor
    patches: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the same rows on a device."""
        ids, labels, positions = self.ids.to(device), self.labels.to(device), self.positions.to(device)
        blind, pixels, patches = self.blind.to(device), self.pixels.to(device), self.patches.to(device)
        return Batch(ids, labels, positions, self.layout, blind, pixels, patches)


def patch_words() -> Tensor:
    """Return the token that names each patch class, [categories + scenes]: the first word of its name."""
    ids = vocabulary()
    names = [category.words[0][0] for category in CATEGORIES] + [kind.name for kind in SCENES]
    return torch.tensor([ids["▁" + name.split()[0]] for name in names])


def draw_scene(worlds: tuple[tuple[float, Distribution], ...], seed: int, index: int) -> Scene:
    """Return scene `index` of a mixture of worlds; scenes without a visible object are passed over."""
    rng = random.Random(f"{seed}/{index}")
    how = rng.choices([world for _, world in worlds], [share for share, _ in worlds])[0]
    while True:
        scene = sample_scene(how, seed, index)
        if scene.instances:
            return scene
        index += 1_000_000_000


Said = list[tuple[list[int], list[int]]]  # (prompt ids, answer ids) per slot of one kind


def _say(pairs: list[tuple[str, str]]) -> Said:
    ids = vocabulary()
    return [([*encode(prompt), ids["ASSISTANT:"]], [*encode(answer), ids["</s>"]]) for prompt, answer in pairs]


def _segments(scene: Scene, diet: Diet, rng: random.Random) -> list[Said]:
    """Return what is said about a scene, one entry per kind of slot that the diet has."""
    said = []
    if diet.caption:
        said.append(_say([(rng.choice(text.DESCRIBE_PROMPTS), text.caption(scene, rng, diet.noise))]))
    if diet.listing:
        said.append(_say([(text.LIST, text.listing(scene, rng))]))
    if diet.questions:
        said.append(_say(text.questions(scene, diet.questions, rng)))
    return said


def normalise(images: list[NDArray[np.uint8]]) -> Tensor:
    """Return uint8 pictures as the processor would: float32 [B, 3, S, S], (x / 255 - 0.5) / 0.25."""
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def build_batch(diet: Diet, seed: int, first: int, size: int, with_pixels: bool = True) -> Batch:
    """Return rows `first` … `first + size - 1` of a diet."""
    ids = vocabulary()
    scenes = [draw_scene(diet.worlds, seed, index) for index in range(first, first + size)]
    rngs = [random.Random(f"{seed}/{first + i}/text") for i in range(size)]
    blind = [diet.caption and rng.random() < diet.blind for rng in rngs]
    said = [_segments(scene, diet, rng) for scene, rng in zip(scenes, rngs, strict=True)]
    prefix = [ids["<s>"], ids["USER:"], *[ids["<image>"]] * IMAGE_TOKENS]
    tokens, labels, positions = [[*prefix] for _ in scenes], [[IGNORED] * PREFIX for _ in scenes], []
    positions = [list(range(PREFIX)) for _ in scenes]
    layout = []
    for kind in range(len(said[0])):
        length = max(len(prompt) + len(answer) for row in said for prompt, answer in row[kind])
        layout.append(Slots(len(said[0][kind]), length))
        for row, pairs in enumerate(said):
            start = 2 if kind == 0 and blind[row] else PREFIX
            for prompt, answer in pairs[kind]:
                empty = length - len(prompt) - len(answer)
                tokens[row] += prompt + answer + [ids["<pad>"]] * empty
                labels[row] += [IGNORED] * (len(prompt) - 1) + answer + [IGNORED] * (empty + 1)
                positions[row] += range(start, start + length)
    return Batch(
        ids=torch.tensor(tokens),
        labels=torch.tensor(labels),
        positions=torch.tensor(positions),
        layout=tuple(layout),
        blind=torch.tensor(blind),
        pixels=normalise([scene.image for scene in scenes]) if with_pixels else torch.empty(0),
        patches=torch.from_numpy(np.stack([patch_classes(scene, PATCH) for scene in scenes])),
    )
