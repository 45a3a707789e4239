"""How much heads attend to each image position where the picture shows nothing: the table of UAC."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vlm_heads.attach import attach
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.families import examine
from vlm_heads.models.prompts import DEFAULT_PROMPT, model_inputs
from vlm_heads.toolkit.blank_attention import BlankAttention
from vlm_heads.toolkit.row_attention import image_keys, require_image_keys, row_weights

__all__ = ["BlankAttention", "blank_attention"]

_SIDE = 336  # pixels; families that scale every picture to one size do not see it


def blank_attention(
    model: nn.Module, processor: Any, *, picture: Image.Image | None = None, prompt: str = DEFAULT_PROMPT
) -> BlankAttention:
    """Return each head's weight on each image position of a blank picture, where the first token is predicted.

    A table fits pictures with as many image positions. Where a family takes pictures at their own size, give a blank
    one of the size that is asked about.

    Args:
        model: a vision-language model of transformers.
        processor: the model's own.
        picture: that shows nothing; a white square where none is given.
        prompt: what is asked about it.

    Raises:
        UnsupportedModel: if the language model's self-attention has no image keys that can be weighed.
    """
    anatomy = examine(model)
    require_image_keys(anatomy)
    shown = Image.new("RGB", (_SIDE, _SIDE), "white") if picture is None else picture
    inputs = model_inputs(model, processor, [shown], [prompt])
    watcher = _ImageWeights()
    with torch.no_grad(), attach(model, watch=[watcher]):
        model(**inputs, use_cache=False)
    positions = next(iter(watcher.found.values())).shape[1]
    table = torch.zeros(anatomy.depth, anatomy.heads, positions)
    for layer, weights in watcher.found.items():
        table[layer] = weights
    return BlankAttention(table)


class _ImageWeights(Watcher):
    """Keeps `[Hq, N]` by layer: the weights on image positions in the row that predicts the first token."""

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        self.found[call.layer] = row_weights(call)[0][:, image_keys(call)[0]].float().cpu()
