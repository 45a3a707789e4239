"""What is said about a scene: captions, lists, questions and answers.

Captions written for training are as unfaithful as those that large models are trained on: sometimes they leave out a
small object and add a plausible absent one. Captions for measuring (`noise=None`) mention exactly what is there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from vlm_evals.protocol import DESCRIBE

from .catalog import CATEGORIES, SCENES
from .world import Scene, draw_category, patch_classes, plausible

LIST = "List the objects in the image."
DESCRIBE_PROMPTS = (
    DESCRIBE,
    DESCRIBE,
    "Describe this image in detail.",
    "Describe the image.",
    "What do you see in this image?",
)
OPENERS = (
    "The image shows {scene} with {objects}.",
    "This is a picture of {scene} with {objects}.",
    "In the image we see {objects} in {scene}.",
    "The photo features {objects} in {scene}.",
    "Here is {scene} with {objects}.",
)
FOLLOW_UPS = (
    "We can also see {objects}.",
    "The picture also includes {objects}.",
    "In the background we see {objects}.",
    "Nearby we find {objects}.",
    "It also shows {objects}.",
)
CLOSINGS = ("The scene looks calm.", "It is a nice day.", "Everything is in its place.", "The colors are bright.")
NUMBERS = {2: "two", 3: "three"}
READING_GRID = 16  # pixels; a picture is read in rows of this height
MASS = {"broccoli": "some", "skis": "a pair of", "scissors": "a pair of"}


@dataclass(frozen=True)
class CaptionNoise:
    """How unfaithful a training caption is.

    Attributes:
        invent: chance that one plausible absent object is added.
        omit: chance that a small object is left out.
        small: area in pixels below which an object counts as small.
    """

    invent: float = 0.15
    omit: float = 0.10
    small: int = 120


def with_article(noun: str) -> str:
    """Return the noun with `a` or `an` (before a, e, i, o, u, as POPE does)."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def object_phrase(category: int, count: int, rng: random.Random) -> str:
    """Return `a dog`, `two puppies`, `several people`; the first word of a category is used three times in four."""
    entry = CATEGORIES[category]
    word = entry.words[0] if len(entry.words) == 1 or rng.random() < 0.75 else rng.choice(entry.words[1:])
    if entry.name in MASS:
        return f"{MASS[entry.name]} {word[0]}"
    return with_article(word[0]) if count == 1 else f"{NUMBERS.get(count, 'several')} {word[1]}"


def join(phrases: list[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def reading_order(scene: Scene) -> list[int]:
    """Return the visible categories as one meets them in the picture, row by row from the top left."""
    met = dict.fromkeys(int(shown) for shown in patch_classes(scene, READING_GRID))
    visible = scene.categories
    return [category for category in met if category in visible] + [c for c in visible if c not in met]


def mentioned(scene: Scene, noise: CaptionNoise | None, rng: random.Random) -> list[tuple[int, int]]:
    """Return (category, count) in the order of mention, which is the reading order of the picture."""
    largest: dict[int, int] = {}
    for instance in scene.instances:
        largest.setdefault(instance.category, instance.area)
    order = reading_order(scene)
    counts = scene.counts()
    said = [(c, counts[c]) for c in order if noise is None or largest[c] >= noise.small or rng.random() >= noise.omit]
    if noise and rng.random() < noise.invent:
        absent = draw_category(rng.random(), plausible(scene.kind, scene.categories))
        said.insert(rng.randint(min(len(said), 2), len(said)), (absent, 1))
    return said or [(order[0], counts[order[0]])]


def caption(scene: Scene, rng: random.Random, noise: CaptionNoise | None = None) -> str:
    """Return a caption of one to four sentences; the scene must show at least one object."""
    phrases = [object_phrase(category, count, rng) for category, count in mentioned(scene, noise, rng)]
    first = rng.randint(1, 3)
    place = with_article(SCENES[scene.kind].name)
    sentences = [rng.choice(OPENERS).format(scene=place, objects=join(phrases[:first]))]
    rest = phrases[first:]
    while rest:
        take = rng.randint(1, 2)
        sentences.append(rng.choice(FOLLOW_UPS).format(objects=join(rest[:take])))
        rest = rest[take:]
    if rng.random() < 0.2:
        sentences.append(rng.choice(CLOSINGS))
    return " ".join(sentences)


def listing(scene: Scene, rng: random.Random) -> str:
    """Return the visible categories, `dog, chair, cup.`, in reading order."""
    return ", ".join(CATEGORIES[category].words[0][0] for category, _ in mentioned(scene, None, rng)) + "."


def question(category: int) -> str:
    """Return POPE's question about a category."""
    return f"Is there {with_article(CATEGORIES[category].words[0][0])} in the image?"


def questions(scene: Scene, count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Return (question, `Yes.` or `No.`) pairs, half of each; absent objects are half plausible ones, half random."""
    present = scene.categories
    shown = rng.sample(present, len(present))
    pairs = []
    for i in rng.sample(range(count), count):
        if i % 2 == 0:
            pairs.append((question(shown[i // 2 % len(shown)]), "Yes."))
        elif rng.random() < 0.5:
            pairs.append((question(draw_category(rng.random(), plausible(scene.kind, present))), "No."))
        else:
            absent = [category for category in range(len(CATEGORIES)) if category not in present]
            pairs.append((question(rng.choice(absent)), "No."))
    return pairs
