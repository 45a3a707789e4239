"""A decoder layer behind its attention: what it would leave, had its attention given something else."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy


def behind_attention(anatomy: Anatomy, layer: int, entering: Tensor, attended: Tensor) -> Tensor:
    """Return what a layer leaves `[R, width]` where its attention gives `attended`.

    The layer's own forward runs, with its norms and its MLP, on one position for each row. Its attention does not run,
    and the model is not changed.

    Args:
        anatomy: of the model.
        layer: zero-based; see `require_behind_attention`.
        entering: `[R, width]`, what enters the layer.
        attended: `[R, width]`, in place of what its attention module gives.
    """
    module, attention = anatomy.layers[layer], anatomy.attentions[layer]
    name = next(name for name, child in module.named_children() if child is attention)
    forward = inspect.unwrap(type(module).forward)  # without what transformers wraps around it for training
    left = forward(_Instead(module, name, attended[:, None].to(entering)), entering[:, None], **_nothing_else(forward))
    hidden: Tensor = left[0] if isinstance(left, tuple) else left
    return hidden[:, 0]


def require_behind_attention(anatomy: Anatomy, layer: int, name: str) -> None:
    """Raise `UnsupportedModel` if a layer has no attention of its own that `behind_attention` can stand in for."""
    attention = anatomy.attentions.get(layer)
    if attention is None or all(child is not attention for child in anatomy.layers[layer].children()):
        raise UnsupportedModel(
            f"{name} gives layer {layer} the attention of another layer, and layer {layer} of {anatomy.model_type} has "
            "no attention of its own"
        )


class _Instead:
    """A decoder layer as its own forward sees it, but for what its attention gives."""

    def __init__(self, layer: nn.Module, name: str, attended: Tensor) -> None:
        self._layer, self._name, self._attended = layer, name, attended

    def __getattr__(self, name: str) -> Any:
        return self._given if name == self._name else getattr(self._layer, name)

    def _given(self, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return self._attended, None


def _nothing_else(forward: Any) -> dict[str, None]:
    """Return None for every argument behind the hidden state that a layer's forward asks for."""
    asked = list(inspect.signature(forward).parameters.values())[2:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {one.name: None for one in asked if one.default is one.empty and one.kind in kinds}
