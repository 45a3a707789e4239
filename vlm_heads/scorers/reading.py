"""What one forward shows at some positions: what enters layers, what heads give, and how it is read as words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.wrappers import unwrapped

_FINAL_NORMS = ("norm", "final_layernorm", "ln_f", "embedding_norm")  # the last is LFM2's


@dataclass
class Seen:
    """What was seen at n positions of one row.

    Attributes:
        heads: `[n, Hq, D]` by layer, heads' outputs as they enter the output projection, gated where a family gates.
        entering: `[n, width]` by layer, the residual stream.
        last: `[n, width]`, what the last layer gives.
    """

    heads: dict[int, Tensor] = field(default_factory=dict)
    entering: dict[int, Tensor] = field(default_factory=dict)
    last: Tensor = field(default_factory=lambda: torch.empty(0))


def seen_at(model: nn.Module, anatomy: Anatomy, inputs: Mapping[str, Any], columns: Sequence[int]) -> Seen:
    """Run one plain forward over one row and return what is seen at its columns."""
    seen, at = Seen(), list(columns)

    def heads(layer: int) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.heads[layer] = args[0][0, at].view(len(at), anatomy.heads, -1)

        return note

    def entering(layer: int) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states: Tensor = args[0] if args else kwargs["hidden_states"]
            seen.entering[layer] = states[0, at]

        return note

    def last(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        seen.last = (output[0] if isinstance(output, tuple) else output)[0, at]

    handles = [one.register_forward_pre_hook(heads(layer)) for layer, one in anatomy.projections.items()]
    handles += [
        one.register_forward_pre_hook(entering(layer), with_kwargs=True) for layer, one in enumerate(anatomy.layers)
    ]
    handles.append(anatomy.layers[-1].register_forward_hook(last))
    try:
        with torch.no_grad():
            unwrapped(model)(**{**inputs, "use_cache": False})
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def gained(projection: nn.Module, gain: Tensor) -> Iterator[None]:
    """Multiply heads' outputs by gains `[B, Hq]` where they enter their layer's output projection."""

    def scale(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        outputs: Tensor = args[0]
        split = outputs.reshape(*outputs.shape[:2], gain.shape[1], -1)
        return ((split * gain.to(outputs)[:, None, :, None]).view(outputs.shape), *args[1:])

    handle = projection.register_forward_pre_hook(scale)
    try:
        yield
    finally:
        handle.remove()


class OutputLayer:
    """A model's final norm and its output layer, as directions in the residual stream.

    Attributes:
        norm: the final norm, an RMSNorm.
        words: the output layer.
        matrix: `[V, width]`, its weight.

    Raises:
        UnsupportedModel: if the final norm is not found, or is another than an RMSNorm.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        found = (getattr(anatomy.decoder, name, None) for name in _FINAL_NORMS)
        norm = next((one for one in found if isinstance(one, nn.Module)), None)
        if norm is None:
            raise UnsupportedModel(
                f"{anatomy.model_type}: no final norm of its decoder was found ({', '.join(_FINAL_NORMS)})"
            )
        self.norm: nn.Module = norm
        self.words: nn.Module = unwrapped(model).get_output_embeddings()
        self.matrix: Tensor = self.words.weight.detach()
        ones = torch.ones(self.matrix.shape[1], dtype=self.matrix.dtype, device=self.matrix.device)
        with torch.no_grad():
            self._weight: Tensor = self.norm(ones)
            probe = torch.linspace(-1.0, 2.0, len(ones), dtype=ones.dtype, device=ones.device)[None]
            linear = torch.allclose(self.norm(probe), probe * self._weight * self._scale(probe), atol=1e-3, rtol=1e-2)
        if not linear:
            raise UnsupportedModel(
                f"{anatomy.model_type}: its final norm is no RMSNorm; what heads tell directly is known through such a "
                "one alone"
            )

    def log_chances(self, states: Tensor) -> Tensor:
        """Return float32 `[n, V]`: log-probabilities of the next token after states `[n, width]` of the last layer."""
        with torch.no_grad():
            said: Tensor = self.words(self.norm(states)).float().log_softmax(dim=-1)
        return said

    def through_norm(self, vectors: Tensor, states: Tensor) -> Tensor:
        """Return `[n, width]`: the direction in the stream that adds to a product with `vectors` after the final norm.

        The final norm's scale is held at what it is for the states `[n, width]`.
        """
        with torch.no_grad():
            found: Tensor = vectors * self._weight * self._scale(states)
        return found

    def _scale(self, states: Tensor) -> Tensor:
        """Return `[n, 1]`: an RMSNorm gives the weighted state times this."""
        weighted = states * self._weight
        scale: Tensor = (self.norm(states) * weighted).sum(-1, keepdim=True) / weighted.square().sum(-1, keepdim=True)
        return scale


def projection_matrix(anatomy: Anatomy, layer: int) -> Tensor:
    """Return `[width, Hq * D]`: a layer's output projection.

    Raises:
        UnsupportedModel: if it is no plain matrix.
    """
    projection = anatomy.projections[layer]
    if not isinstance(projection, nn.Linear):
        raise UnsupportedModel(
            f"{anatomy.model_type}, layer {layer}: the output projection is a {type(projection).__name__} and no plain "
            "matrix; merge adapters first"
        )
    return projection.weight


def told(anatomy: Anatomy, layer: int, outputs: Tensor, directions: Tensor) -> Tensor:
    """Return float32 `[Hq, n]`: the products of heads' outputs, through the output projection, with directions.

    Args:
        anatomy: of the model.
        layer: whose heads they are.
        outputs: `[n, Hq, D]`.
        directions: `[n, width]`.

    Raises:
        UnsupportedModel: if the layer's output projection is no plain matrix.
    """
    with torch.no_grad():
        back = (directions @ projection_matrix(anatomy, layer)).view(outputs.shape)
        return (outputs * back).sum(dim=-1).float().T.cpu()
