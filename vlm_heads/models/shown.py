"""Which pictures a model's inputs were made of, remembered as long as their pixel values are alive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from vlm_heads.errors import UnsupportedModel

_SHOWN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def remember(inputs: Mapping[str, Any], pictures: Sequence[Image.Image]) -> None:
    """Remember the pictures, one a row, that inputs were made of."""
    pixels = inputs.get("pixel_values")
    if isinstance(pixels, Tensor):
        _SHOWN[pixels] = list(pictures)


def pictures_of(inputs: Mapping[str, Any], processor: Any, model_type: str) -> list[Image.Image]:
    """Return the pictures that inputs were made of, one a row; where they are not known, as the model was shown them.

    Args:
        inputs: of a forward.
        processor: the model's own, which says how it scaled pixel values.
        model_type: for the message.

    Raises:
        UnsupportedModel: if the pictures are not known and cannot be read from the pixel values.
    """
    pixels = inputs.get("pixel_values")
    if isinstance(pixels, Tensor) and pixels in _SHOWN:
        return list(_SHOWN[pixels])
    images = getattr(processor, "image_processor", None)
    mean, std = getattr(images, "image_mean", None), getattr(images, "image_std", None)
    rows = len(inputs["input_ids"])
    if not isinstance(pixels, Tensor) or pixels.dim() != 4 or pixels.shape[:2] != (rows, 3) or not (mean and std):
        raise UnsupportedModel(
            f"the pictures cannot be read back from the pixel values of {model_type}: make the inputs with "
            "VLM.inputs(images, prompts), which remembers them"
        )
    return [_picture(one, mean, std) for one in pixels]


def _picture(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Return one picture of its pixel values `[3, H, W]`."""
    of_channel = (torch.tensor(list(one))[:, None, None] for one in (std, mean))
    scale, start = of_channel
    levels = ((pixels.float().cpu() * scale + start).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
