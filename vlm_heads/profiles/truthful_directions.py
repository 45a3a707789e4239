"""Directions from invented captions towards true ones, found from pairs of captions (VTI, Liu et al., ICLR 2025)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads import attention
from vlm_heads.blind import untouched
from vlm_heads.directions import Directions
from vlm_heads.errors import BadOption, BadPrompt
from vlm_heads.families import Anatomy, examine
from vlm_heads.models.images import ImageSource, load_image
from vlm_heads.models.prompts import model_inputs, with_answer
from vlm_heads.wrappers import unwrapped

_FIELDS = ("image", "question", "value", "h_value")  # as the authors' file has them


@dataclass(frozen=True)
class CaptionPair:
    """One picture with a true caption, and with the same one where something is invented.

    Attributes:
        image: the picture.
        prompt: what the captions answer.
        true: the true one.
        invented: the other.
    """

    image: ImageSource
    prompt: str
    true: str
    invented: str


def read_caption_pairs(file: str | os.PathLike[str], images: str | os.PathLike[str]) -> list[CaptionPair]:
    """Return the pairs of a file of JSON lines with `image`, `question`, `value` and `h_value`, as the authors' has.

    Args:
        file: to read.
        images: the folder that `image` names a file in.

    Raises:
        BadOption: if it cannot be read, or a line lacks a field.
    """
    pairs = []
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as failure:
        raise BadOption(f"{file} cannot be read: {failure}") from failure
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            image, prompt, true, invented = (str(json.loads(line)[name]) for name in _FIELDS)
        except (ValueError, KeyError, TypeError) as failure:
            raise BadOption(f"{file}, line {number}: {', '.join(_FIELDS)} are needed ({failure})") from failure
        pairs.append(CaptionPair(Path(images) / image, prompt, true, invented))
    return pairs


def find_directions(
    model: nn.Module, processor: Any, pairs: Sequence[CaptionPair], *, component: bool = True
) -> Directions:
    """Return the directions from invented captions towards true ones, of what leaves each layer.

    Args:
        model: a vision-language model of transformers, with nothing attached.
        processor: the model's own.
        pairs: at least one.
        component: add the first principal component of the pairs' differences, of length 1, as the program does.

    Raises:
        BadOption: if there are no pairs.
        BadPrompt: if a caption is empty.
    """
    if not pairs:
        raise BadOption("no pairs of captions were given; at least one is needed")
    anatomy = examine(model)
    differences = torch.stack([_difference(model, processor, anatomy, pair) for pair in pairs])
    mean = differences.mean(dim=0)
    return Directions(mean + principal_component(differences) if component and len(pairs) > 1 else mean)


def _difference(model: nn.Module, processor: Any, anatomy: Anatomy, pair: CaptionPair) -> Tensor:
    inputs = model_inputs(model, processor, [load_image(pair.image)], [pair.prompt])
    true, invented = (
        _left(model, anatomy, with_answer(inputs, _ids(processor, one))) for one in (pair.true, pair.invented)
    )
    return true - invented


def _ids(processor: Any, caption: str) -> list[int]:
    ids: list[int] = processor.tokenizer(caption, add_special_tokens=False)["input_ids"]
    if not ids:
        raise BadPrompt("a caption of a pair is empty")
    return ids


def _left(model: nn.Module, anatomy: Anatomy, inputs: dict[str, Any]) -> Tensor:
    """Return what leaves each layer at the last position, float32 `[L, width]`."""
    kept: dict[int, Tensor] = {}
    plain = attention.plain_forwards(anatomy.attentions.values())
    with _kept(anatomy, kept), plain, untouched(unwrapped(model)):
        unwrapped(model)(**inputs, use_cache=False)
    return torch.stack([kept[layer] for layer in range(anatomy.depth)])


@contextmanager
def _kept(anatomy: Anatomy, kept: dict[int, Tensor]) -> Iterator[None]:
    def keep(layer: int, output: Any) -> None:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        kept[layer] = hidden[0, -1].float().cpu()

    handles = [
        module.register_forward_hook(lambda _, __, output, layer=layer: keep(layer, output))
        for layer, module in enumerate(anatomy.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def principal_component(differences: Tensor) -> Tensor:
    """Return the first principal component `[...]` of samples `[n, ...]`, its largest sample score positive.

    It has length 1, or is 0 where all pairs say the same.
    """
    flat = differences.flatten(1)
    scores, spread, components = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
    sign = scores[scores[:, 0].abs().argmax(), 0].sign() * (spread[0] > 0)
    found: Tensor = components[0] * sign
    return found.view(differences.shape[1:])
