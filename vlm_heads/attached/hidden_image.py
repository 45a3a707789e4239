"""Masks with the image's keys closed: text positions no longer see the image, and nothing else changes."""

from __future__ import annotations

import torch
from torch import Tensor
from vlm_kernels import KeyClass

from vlm_heads.errors import UnsupportedModel
from vlm_heads.key_map import KeyMap


def without_image_keys(mask: Tensor | None, key_map: KeyMap, positions: int) -> Tensor:
    """Return a layer's mask, as transformers gives it, with the image's keys closed to text positions.

    Image positions keep what they see. No text position sees them, so they matter to none; without any key their rows
    would be undefined.

    Args:
        mask: `[B or 1, 1, Tq, Tk]`, bool (true where a key is seen) or what is added to logits; None where each
            position sees itself and all before it.
        key_map: every key, those of this forward included.
        positions: `Tq`.

    Raises:
        UnsupportedModel: if the mask is of another shape.
    """
    if mask is not None and mask.dim() != 4:
        raise UnsupportedModel(
            f"a layer's mask has {mask.dim()} axes, so the image's keys cannot be closed in it: load the model with "
            "attn_implementation='sdpa' or 'eager'"
        )
    keys = key_map.length if mask is None else mask.shape[-1]
    image = key_map.seen_by(keys) == KeyClass.IMAGE
    closed = image[:, None, None, :] & ~image[:, None, keys - positions :, None]
    if mask is None:
        return _before(positions, keys, image.device) & ~closed
    if mask.dtype == torch.bool:
        return mask & ~closed
    return torch.where(closed, torch.finfo(mask.dtype).min, mask)


def _before(positions: int, keys: int, device: torch.device) -> Tensor:
    """Return bool `[Tq, Tk]`: each of the last `positions` keys sees itself and all before it."""
    return torch.ones(positions, keys, dtype=torch.bool, device=device).tril(keys - positions)
