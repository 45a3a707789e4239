"""The embedded world: which objects stand together, where, and how the picture looks.

A scene is sampled from (split, seed, index) alone. The same three give the same picture, byte for byte, on every
machine that runs the same numpy and Pillow. There are three kinds of co-occurrence: the scene's own (`train`,
`validation`, `held-out`), half of it broken (`shifted`), and none at all (`scrambled`).
"""

from __future__ import annotations

import zlib
from bisect import bisect_left as bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .catalog import CATEGORIES, CLUTTER, INDEX, PAIR_BOOST, PAIRS, SCENES
from .sprites import ROTATIONS, SIZES, Sprite, sprite

IMAGE_SIZE = 112  # pixels
MAX_INSTANCES = 12
VISIBLE_SHARE = 0.30  # an instance counts as truth when this share of it ...
VISIBLE_PIXELS = 24  # ... and this many pixels are to be seen
BACKGROUND = 255
_BETWEEN = [(small + large) / 2 for small, large in pairwise(SIZES)]

Uniforms = Iterator[float]


@dataclass(frozen=True)
class Distribution:
    """How scenes of a split are sampled.

    Attributes:
        intruders: chance that an object is drawn uniformly instead of from its scene.
        mean_objects: mean number of distinct categories.
        enlarge: factor on object sizes (easy scenes for the reading stage of the training).
    """

    intruders: float = 0.02
    mean_objects: float = 4.3
    enlarge: float = 1.0


SPLITS: dict[str, Distribution] = {
    "train": Distribution(),
    "validation": Distribution(),
    "held-out": Distribution(),
    "shifted": Distribution(intruders=0.5),
    "scrambled": Distribution(intruders=1.0),
}


@dataclass(frozen=True)
class Instance:
    """One object of a scene that can be seen.

    Attributes:
        category: index into CATEGORIES.
        box: x, y, width, height of its visible pixels.
        area: number of visible pixels.
    """

    category: int
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        kind: index into SCENES.
        image: uint8 [112, 112, 3].
        owner: uint8 [112, 112], the category that owns each pixel, BACKGROUND elsewhere.
        instances: visible objects, largest first.
    """

    kind: int
    image: NDArray[np.uint8]
    owner: NDArray[np.uint8]
    instances: tuple[Instance, ...]

    @property
    def categories(self) -> list[int]:
        """Distinct visible categories, largest instance first."""
        return list(dict.fromkeys(instance.category for instance in self.instances))

    def counts(self) -> dict[int, int]:
        """Return the number of visible instances per category."""
        counts: dict[int, int] = {}
        for instance in self.instances:
            counts[instance.category] = counts.get(instance.category, 0) + 1
        return counts


def scene_weights(kind: int) -> NDArray[np.float64]:
    """Return how often each category turns up in a kind of scene, [categories], before pairs."""
    weights = np.zeros(len(CATEGORIES))
    for name, weight in SCENES[kind].weights.items():
        weights[INDEX[name]] = weight
    return weights


@lru_cache(maxsize=len(SCENES))
def _weights(kind: int) -> NDArray[np.float64]:
    return scene_weights(kind)


@lru_cache(maxsize=1)
def _partners() -> dict[int, tuple[int, ...]]:
    partners: dict[int, list[int]] = {}
    for one, other in PAIRS:
        partners.setdefault(INDEX[one], []).append(INDEX[other])
        partners.setdefault(INDEX[other], []).append(INDEX[one])
    return {category: tuple(others) for category, others in partners.items()}


def draw_category(uniform: float, weights: NDArray[np.float64]) -> int:
    """Return one index drawn in proportion to the weights."""
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def plausible(kind: int, present: list[int]) -> NDArray[np.float64]:
    """Return the weights of absent categories given those present: the co-occurrence that a language prior learns."""
    weights = _weights(kind).copy()
    for category in present:
        for partner in _partners().get(category, ()):
            weights[partner] = max(weights[partner], 1.0) * PAIR_BOOST
    weights[present] = 0
    return weights


def _draw_categories(kind: int, how: Distribution, uniforms: Uniforms) -> list[int]:
    wanted = 2 + sum(next(uniforms) < (how.mean_objects - 2) / 6 for _ in range(6))
    present: list[int] = []
    for _ in range(wanted):
        if next(uniforms) < how.intruders:
            weights = np.ones(len(CATEGORIES))
            weights[present] = 0
        else:
            weights = plausible(kind, present)
        present.append(draw_category(next(uniforms), weights))
    return present


@lru_cache(maxsize=1)
def _noise_bank() -> NDArray[np.int16]:
    return np.random.default_rng(0).normal(0, 7, 1 << 18).round().astype(np.int16)


@lru_cache(maxsize=len(SCENES))
def _backdrop(kind: int) -> NDArray[np.int16]:
    """Return the scene's background, int16 [112, 112, 3]: two colours, a soft horizon, a fixed texture."""
    rng = np.random.default_rng(kind)
    rows = np.arange(IMAGE_SIZE) / IMAGE_SIZE
    blend = 1 / (1 + np.exp(-(rows - 0.55) * 24))
    colours = (1 - blend)[:, None] * np.array(SCENES[kind].top) + blend[:, None] * np.array(SCENES[kind].bottom)
    texture = np.kron(rng.normal(0, 8, (14, 14, 1)), np.ones((8, 8, 1)))
    backdrop: NDArray[np.int16] = (colours[:, None, :] + texture).round().astype(np.int16)
    return backdrop


def _paste(
    image: NDArray[np.uint16], drawing: Sprite, x: int, y: int, brightness: int
) -> tuple[slice, slice, slice, slice]:
    """Blend a sprite into the image, its corner at (x, y), lit by brightness/128; return the slices that it covers."""
    height, width = drawing.ink.shape
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, IMAGE_SIZE), min(y + height, IMAGE_SIZE)
    there = (slice(y0, y1), slice(x0, x1))
    here = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
    transparency = drawing.transparency[here]
    lit = drawing.premultiplied[here] * brightness
    lit >>= 7
    np.minimum(lit, 255 - transparency, out=lit)
    covered = image[there]
    covered *= transparency
    covered >>= 8
    covered += lit
    return (*there, *here)


def _place(size: tuple[int, int], boxes: list[tuple[int, int, int, int]], uniforms: Uniforms) -> tuple[int, int]:
    """Return the corner, of four tried, at which the sprite covers least of what is there.

    Args:
        size: height and width of the sprite.
        boxes: left, top, right, bottom of what was drawn before.
    """
    height, width = size
    best, best_cover = (0, 0), float("inf")
    for _ in range(4):
        x = int(next(uniforms) * (IMAGE_SIZE - 0.8 * width) - 0.1 * width)
        y = int(next(uniforms) * (IMAGE_SIZE - 0.8 * height) - 0.1 * height)
        right, bottom, cover = x + width, y + height, 0
        for left, top, bx, by in boxes:
            if x < bx and left < right and y < by and top < bottom:
                cover += (min(right, bx) - max(x, left)) * (min(bottom, by) - max(y, top))
        if cover < best_cover:
            best, best_cover = (x, y), cover
        if not cover:
            break
    return best


def _draw_sprite(glyph: str, pixels: float, uniforms: Uniforms) -> Sprite:
    rotation = ROTATIONS[int(next(uniforms) * len(ROTATIONS))]
    return sprite(glyph, SIZES[bisect(_BETWEEN, pixels)], rotation, next(uniforms) < 0.5)


def sample_scene(split: str | Distribution, seed: int, index: int) -> Scene:
    """Return scene `index` of a split.

    Args:
        split: a name of SPLITS, or a distribution of one's own.
        seed: the world's seed; the splits do not overlap under one seed.
        index: which scene.
    """
    how = SPLITS[split] if isinstance(split, str) else split
    stream = zlib.crc32((split if isinstance(split, str) else repr(split)).encode())
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream, index))))
    uniforms = iter(rng.random(320).tolist())
    kind = int(next(uniforms) * len(SCENES))
    present = _draw_categories(kind, how, uniforms)
    return _render(kind, present, how, uniforms)


def _planned(present: list[int], uniforms: Uniforms) -> list[int]:
    """Return one entry per instance, in drawing order: one to three of each category, shuffled."""
    plan = [category for category in present for _ in range(1 + (next(uniforms) < 0.3) + (next(uniforms) < 0.1))]
    return sorted(plan[:MAX_INSTANCES], key=lambda _: next(uniforms))


def _render(kind: int, present: list[int], how: Distribution, uniforms: Uniforms) -> Scene:
    light = int(next(uniforms) * 40) - 20
    image = np.clip(_backdrop(kind) + light, 0, 255).astype(np.uint16)
    for _ in range(int(next(uniforms) * 4)):
        clutter = _draw_sprite(CLUTTER[int(next(uniforms) * len(CLUTTER))], 12 + 14 * next(uniforms), uniforms)
        x, y = _place(clutter.ink.shape, [], uniforms)
        _paste(image, clutter, x, y, 90)
    identity = np.full((IMAGE_SIZE, IMAGE_SIZE), BACKGROUND, dtype=np.uint8)
    drawn: list[_Drawn] = []
    boxes: list[tuple[int, int, int, int]] = []
    crowding = 1.15 - 0.04 * len(present)
    for category in _planned(present, uniforms):
        entry = CATEGORIES[category]
        glyph = entry.glyphs[int(next(uniforms) * len(entry.glyphs))]
        drawing = _draw_sprite(glyph, how.enlarge * crowding * entry.size * (22 + 20 * next(uniforms)), uniforms)
        x, y = _place(drawing.ink.shape, boxes, uniforms)
        rows, columns, own_rows, own_columns = _paste(image, drawing, x, y, 104 + int(48 * next(uniforms)))
        np.copyto(identity[rows, columns], len(drawn), where=drawing.ink[own_rows, own_columns])
        boxes.append((x, y, x + drawing.ink.shape[1], y + drawing.ink.shape[0]))
        drawn.append(_Drawn(category, drawing.pixels, rows, columns))
    start = int(next(uniforms) * ((1 << 18) - image.size))
    noisy = image.view(np.int16) + _noise_bank()[start : start + image.size].reshape(image.shape)
    pixels = noisy.clip(0, 255, out=noisy).astype(np.uint8)
    instances, owner = _visible(identity, drawn)
    return Scene(kind, pixels, owner, instances)


@dataclass(frozen=True)
class _Drawn:
    """What was drawn: its category, its ink pixels before occlusion, and the rows and columns that it may cover."""

    category: int
    pixels: int
    rows: slice
    columns: slice


def _visible(identity: NDArray[np.uint8], drawn: list[_Drawn]) -> tuple[tuple[Instance, ...], NDArray[np.uint8]]:
    category_of = bytearray([BACKGROUND]) * 256
    instances = []
    for number, item in enumerate(drawn):
        category_of[number] = item.category
        seen = identity[item.rows, item.columns] == number
        area = int(np.count_nonzero(seen))
        if area < VISIBLE_PIXELS or area < VISIBLE_SHARE * item.pixels:
            continue
        columns, rows = seen.any(0).nonzero()[0], seen.any(1).nonzero()[0]
        x, y = item.columns.start + int(columns[0]), item.rows.start + int(rows[0])
        box = (x, y, int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1)
        instances.append(Instance(item.category, box, area))
    instances.sort(key=lambda instance: -instance.area)
    owner = np.frombuffer(identity.tobytes().translate(category_of), np.uint8).reshape(identity.shape)
    return tuple(instances), owner


def patch_classes(scene: Scene, patch: int) -> NDArray[np.int64]:
    """Return what each patch shows, [patches] in raster order.

    A patch shows the category that owns most of it, if that is at least a fifth of its pixels. Otherwise it shows the
    scene's background, coded as `len(CATEGORIES) + kind`.
    """
    side = IMAGE_SIZE // patch
    tiles = scene.owner.reshape(side, patch, side, patch).transpose(0, 2, 1, 3).reshape(side * side, patch * patch)
    keys = tiles.astype(np.int64) + 256 * np.arange(side * side)[:, None]
    counts = np.bincount(keys.ravel(), minlength=256 * side * side).reshape(side * side, 256)[:, : len(CATEGORIES)]
    largest = counts.argmax(1)
    shown = counts[np.arange(side * side), largest] >= 0.2 * patch * patch
    return np.where(shown, largest, len(CATEGORIES) + scene.kind)


def scenes(split: str | Distribution, seed: int, count: int) -> Iterator[Scene]:
    """Yield the first `count` scenes of a split that show at least one object."""
    found, index = 0, 0
    while found < count:
        scene = sample_scene(split, seed, index)
        index += 1
        if scene.instances:
            found += 1
            yield scene
