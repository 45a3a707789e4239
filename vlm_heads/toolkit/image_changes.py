"""Images that a second stream sees: noised as by diffusion (VCD), or changed by a random transform (RITUAL)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from vlm_heads.toolkit.options import require_number

DIFFUSION_STEPS = 1000


def diffused(pixels: Tensor, step: int, seed: int) -> Tensor:
    """Return pixel values after `step` of the 1000 steps of a diffusion with a sigmoid schedule (VCD's).

    `sqrt(a) x + sqrt(1 - a) noise`, `a` the product of one minus the step's betas so far. Every image of the batch
    gets the same noise, so that it does not depend on its neighbours; flattened patches get theirs by position.

    Raises:
        BadOption: if the step is not in 0..1000; 0 leaves the pixels as they are.
    """
    require_number("noise_step", step, at_least=0, at_most=DIFFUSION_STEPS)
    betas = torch.linspace(-6, 6, DIFFUSION_STEPS, dtype=torch.float64).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
    kept = float((1.0 - betas[: int(step)]).prod())
    shape = pixels.shape if pixels.dim() < 4 else (1, *pixels.shape[1:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(pixels)
    return pixels * math.sqrt(kept) + noise * math.sqrt(1.0 - kept)


def random_change(image: Image.Image, seed: int) -> Image.Image:
    """Return an RGB image of the same size, changed by one of RITUAL's transforms, drawn by seed."""
    draw = random.Random(seed)
    return draw.choice(CHANGES)(image, draw)


def _rotated(image: Image.Image, draw: random.Random) -> Image.Image:
    return image.rotate(draw.uniform(-180, 180))


def _coloured(image: Image.Image, draw: random.Random) -> Image.Image:
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(draw.uniform(0.5, 1.5))
    return image


def _blurred(image: Image.Image, draw: random.Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(draw.uniform(0.02, 0.05) * min(image.size)))


def _cropped(image: Image.Image, draw: random.Random) -> Image.Image:
    width, height = (max(1, round(side * draw.uniform(0.5, 0.9))) for side in image.size)
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height)).resize(image.size)


CHANGES: tuple[Callable[[Image.Image, random.Random], Image.Image], ...] = (
    lambda image, _: ImageOps.mirror(image),
    lambda image, _: ImageOps.flip(image),
    _rotated,
    _coloured,
    _blurred,
    _cropped,
)
