"""Directions of a vision tower towards what it makes of masked pictures (VTI, Liu et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads import attention
from vlm_heads.blind import untouched
from vlm_heads.directions import TowerDirections
from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.families import Anatomy, examine
from vlm_heads.models.images import ImageSource, load_image
from vlm_heads.models.prompts import DEFAULT_PROMPT, model_inputs
from vlm_heads.profiles.truthful_directions import principal_component
from vlm_heads.toolkit.options import require_number
from vlm_heads.tower import tower_layers
from vlm_heads.wrappers import unwrapped

_AT_ONCE = 8  # pictures in one forward of the tower
_PLAIN_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "pixel_values"}


def find_tower_directions(
    model: nn.Module,
    processor: Any,
    pictures: Sequence[ImageSource],
    *,
    trials: int = 50,
    masked: float = 0.99,
    component: bool = True,
    seed: int = 0,
) -> TowerDirections:
    """Return the directions from what the vision tower's layers leave of pictures to what they leave of masked ones.

    The tower runs once for each picture and trial. All differences are held at once: those of 70 pictures in a tower of
    24 layers, 577 positions and width 1024 take 4 GB.

    Args:
        model: a vision-language model of transformers, with nothing attached.
        processor: the model's own.
        pictures: at least one.
        trials: masked copies of each picture.
        masked: share of the patches that are masked in each.
        component: add the principal components of the pictures' differences, each of length 1, as the program does.
        seed: of the masks.

    Raises:
        BadOption: if there are no pictures, or a number is out of its range.
        UnsupportedModel: if there is no vision tower with layers of their own, or it takes pictures as tiles, as
            patches in a row, or at their own size.
    """
    require_number("trials", trials, at_least=1)
    require_number("masked", masked, at_least=0.0, at_most=1.0)
    if not pictures:
        raise BadOption("no pictures were given; at least one is needed")
    model = unwrapped(model)
    anatomy = examine(model)
    layers, patch = tower_layers(model, anatomy), _patch_size(model, anatomy)
    generator = torch.Generator().manual_seed(seed)
    differences = []
    for picture in pictures:
        pixels = _pixels(model, processor, anatomy, picture)
        copies = masked_copies(pixels, masked, trials, patch, generator)
        differences.append(_mean_left(model, anatomy, layers, copies) - _mean_left(model, anatomy, layers, pixels))
    found = torch.stack(differences)
    mean = found.mean(dim=0)
    return TowerDirections((mean + _components(found) if component and len(pictures) > 1 else mean)[1:])


def masked_copies(pixels: Tensor, share: float, trials: int, patch: int, generator: torch.Generator) -> Tensor:
    """Return copies `[trials, C, H, W]` of one picture `[1, C, H, W]` with a share of its patches at its mean."""
    height, width = pixels.shape[2] // patch, pixels.shape[3] // patch
    count = height * width
    drawn = [torch.randperm(count, generator=generator)[: int(share * count)] for _ in range(trials)]
    chosen = torch.zeros(trials, count, dtype=torch.bool)
    for trial, patches in enumerate(drawn):
        chosen[trial, patches] = True
    hidden = chosen.view(trials, 1, height, width).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    over = (0, pixels.shape[3] - width * patch, 0, pixels.shape[2] - height * patch)
    hidden = torch.nn.functional.pad(hidden, over).to(pixels.device)
    return torch.where(hidden, pixels.mean(dim=(2, 3), keepdim=True), pixels)


def _pixels(model: nn.Module, processor: Any, anatomy: Anatomy, picture: ImageSource) -> Tensor:
    """Return one picture `[1, C, H, W]` as the tower takes it."""
    inputs = model_inputs(model, processor, [load_image(picture)], [DEFAULT_PROMPT])
    pixels: Tensor = inputs["pixel_values"]
    more = sorted(inputs.keys() - _PLAIN_INPUTS)
    if pixels.dim() != 4 or len(pixels) != 1 or more:
        told = f", with {', '.join(more)} beside them" if more else ""
        raise UnsupportedModel(
            f"{anatomy.model_type} takes a picture as {tuple(pixels.shape)}{told}; directions for each position need "
            "pictures that are scaled to one size and looked at whole, [1, C, H, W]"
        )
    return pixels


def _patch_size(model: nn.Module, anatomy: Anatomy) -> int:
    config: Any = getattr(model.config, "vision_config", None)
    size = getattr(config, "patch_size", None)
    size = size[0] if isinstance(size, list | tuple) and len({*size}) == 1 else size
    if not isinstance(size, int):
        raise UnsupportedModel(f"the config of {anatomy.model_type} states no size of its vision tower's patches")
    return size


def _mean_left(model: nn.Module, anatomy: Anatomy, layers: Sequence[nn.Module], pixels: Tensor) -> Tensor:
    """Return what enters the first layer and leaves each `[L + 1, T, width]`, the mean over pictures `[N, C, H, W]`."""
    summed: dict[int, Tensor] = {}
    plain = attention.plain_forwards(anatomy.attentions.values())
    encode: Any = model.get_image_features
    with torch.no_grad(), _summed(anatomy, layers, summed), plain, untouched(model):
        for some in torch.split(pixels, _AT_ONCE):
            encode(pixel_values=some)
    return torch.stack([summed[place] for place in range(len(layers) + 1)]) / len(pixels)


@contextmanager
def _summed(anatomy: Anatomy, layers: Sequence[nn.Module], summed: dict[int, Tensor]) -> Iterator[None]:
    def add(place: int, hidden: Tensor) -> None:
        if hidden.dim() != 3:
            raise UnsupportedModel(f"the vision tower of {anatomy.model_type} holds all its patches in one row")
        total = hidden.float().sum(dim=0).cpu()
        summed[place] = summed[place] + total if place in summed else total

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        add(0, args[0] if args else kwargs["hidden_states"])

    def leave(place: int, output: Any) -> None:
        add(place, output[0] if isinstance(output, tuple) else output)

    handles = [layers[0].register_forward_pre_hook(enter, with_kwargs=True)]
    handles += [
        module.register_forward_hook(lambda _, __, output, place=place: leave(place, output))
        for place, module in enumerate(layers, start=1)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _components(differences: Tensor) -> Tensor:
    """Return the principal components `[L, T, width]` of pictures' differences `[n, L, T, width]`, as the program's.

    They are laid out layer by layer and cut into `T` pieces; each piece has a component of its own.
    """
    pieces = differences.reshape(len(differences), differences.shape[2], -1)
    found = torch.stack([principal_component(piece) for piece in pieces.unbind(dim=1)])
    return found.reshape(differences.shape[1:])
