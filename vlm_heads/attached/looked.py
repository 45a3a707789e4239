"""What a prompt's last row gives each image key, in a plain pass of its own: for streams that are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.stream_edit import SecondStreamCall, StreamEdit
from vlm_heads.toolkit.row_attention import image_keys, row_weights


def image_weights(model: nn.Module, inputs: Mapping[str, Any]) -> dict[int, Tensor]:
    """Return by layer `[B, Hq, T]`: the weights of each prompt's last row, 0 where a key is no image's.

    Nothing is edited on the way, whatever is attached to the model.

    Args:
        model: a vision-language model of transformers.
        inputs: what its forward takes.

    Raises:
        UnsupportedModel: if its self-attention has no image keys, or cannot be followed.
    """
    looking = _Looking()
    SecondStream(model, inputs, edit=looking).begin(1)
    return looking.weights


class _Looking(StreamEdit):
    """Keeps what each layer's last row gives the image, and changes nothing."""

    def __init__(self) -> None:
        self.weights: dict[int, Tensor] = {}

    def attend(self, call: SecondStreamCall) -> Tensor:
        weights = row_weights(call).masked_fill(~image_keys(call)[:, None], 0.0)
        beyond = call.key_map.length - weights.shape[-1]  # keys that a sliding layer no longer holds
        self.weights[call.layer] = pad(weights, (beyond, 0))
        return call.plain()
