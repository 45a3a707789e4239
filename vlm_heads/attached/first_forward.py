"""Runs a plain forward before one of a generation, on the same input, with gradients where a method asks for them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from vlm_heads.blind import untouched
from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.key_map import KeyMap
from vlm_heads.toolkit.first_pass import FirstForward


def require_first_forward(anatomy: Anatomy, name: str) -> None:
    """Raise `UnsupportedModel` where a family's token logits do not come out of the model's own forward."""
    if anatomy.quirks.blind_from_decoder:
        raise UnsupportedModel(
            f"{anatomy.model_type} generates past its own forward, so the first forward of {name} has no token logits"
        )


def look_ahead(
    model: nn.Module, inputs: Mapping[str, Any], key_map: KeyMap, prefill: bool, first: FirstForward
) -> Mapping[Any, Any]:
    """Return what a first forward finds.

    Args:
        model: that generates; its attention calls reach `first`.
        inputs: of the forward that is to come.
        key_map: of its generation, that forward's keys included.
        prefill: whether it is the prompt's.
        first: reads it.
    """
    with torch.inference_mode(False), untouched(model):  # tensors of inference mode carry no gradient
        logits: Tensor = model(**{name: _copied(value) for name, value in inputs.items()}).logits
        if prefill and logits.shape[1] > 1:
            rows = torch.arange(len(logits), device=logits.device)
            return first.found(logits[rows, key_map.last_rows.clone()])  # as made outside of inference mode
        return first.found(logits[:, -1])


def _copied(value: Any) -> Any:
    """Return an input that belongs to the first forward alone."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if not isinstance(value, Cache):
        return value
    # a tensor that a gradient is taken through refuses to be copied deeply
    held = [one for layer in value.layers for one in vars(layer).values() if isinstance(one, Tensor)]
    return copy.deepcopy(value, {id(one): one.detach().clone() for one in held})
