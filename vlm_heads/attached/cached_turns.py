"""What a forward goes on from: how many keys its cache holds, and the turns before the image."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from vlm_kernels import KeyClass

from vlm_heads.attached.generations import TrackedGeneration
from vlm_heads.blind import TextOnly


def _new_columns(inputs: dict[str, Any]) -> int:
    given = inputs.get("input_ids")
    given = inputs["inputs_embeds"] if given is None else given
    return int(given.shape[1])


def cached_length(cache: Cache | None, known: TrackedGeneration | None, inputs: dict[str, Any]) -> int:
    """Return how many keys the cache holds already."""
    if cache is None:
        return 0
    length = cache.get_seq_length()
    if isinstance(length, Tensor) and length.is_cuda and known is not None and _new_columns(inputs) == 1:
        return known.key_map.length  # reading a static cache's length would wait for the device on every step
    return int(length)


def prefix(text: TextOnly, state: TrackedGeneration, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return what an image-free pass goes on from: nothing, or a copy of the cache of the turns before the image."""
    start = state.key_map.turn_start
    if not start:
        return {}
    seen = state.key_map.classes[:, :start] != KeyClass.PADDING
    return {"past_key_values": copy.deepcopy(inputs["past_key_values"]), **text.after(seen)}
