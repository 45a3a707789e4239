"""Low-rank adapters on the linear layers of a language model (Hu et al. 2022), as `small` is trained with them.

An adapter adds `scale · up(down(x))` to a linear layer that stays as it is. `up` starts at zero, so an adapted model
starts as the model it was. `merge` puts the sum into the weights: same model, no adapters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

RANK, ALPHA = 16, 32.0


class Adapted(nn.Module):
    """A frozen linear layer and its adapter.

    Attributes:
        linear: the layer, in [..., I], out [..., O].
        down, up: the adapter's factors, [rank, I] and [O, rank].
        scale: factor on what the adapter adds.
        on: whether the adapter adds anything.
    """

    on = True

    def __init__(self, linear: nn.Linear, down: Tensor, scale: float) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(down.new_zeros(linear.out_features, down.shape[0]))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.to(self.linear.weight.dtype)).to(x.dtype)
        return out + (x @ self.down.T) @ (self.scale * self.up.T) if self.on else out


def add_adapters(
    decoder: nn.Module, seed: int, rank: int = RANK, alpha: float = ALPHA, frozen: torch.dtype = torch.float32
) -> dict[str, nn.Parameter]:
    """Freeze a decoder, put an adapter on each of its linear layers, and return what is left to train, by name.

    Args:
        decoder: the language model without its output layer; changed in place.
        seed: of the adapters' first factors, normal with variance 1 / inputs.
        rank: of every adapter.
        alpha: an adapter's scale is `alpha / rank`.
        frozen: dtype of the frozen linear layers and of their products; everything else keeps its own.
    """
    decoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, linear in _linear_layers(decoder).items():
        down = torch.randn(rank, linear.in_features, generator=generator) / math.sqrt(linear.in_features)
        host, _, own = name.rpartition(".")
        down = down.to(linear.weight.device)
        setattr(decoder.get_submodule(host), own, Adapted(linear.to(frozen), down, alpha / rank))
    return {
        f"{name}.{factor}": parameter
        for name, layer in decoder.named_modules()
        if isinstance(layer, Adapted)
        for factor, parameter in (("down", layer.down), ("up", layer.up))
    }


@contextmanager
def without_adapters(decoder: nn.Module) -> Iterator[None]:
    """Inside, an adapted decoder is the one that it was before."""
    adapted = [layer for layer in decoder.modules() if isinstance(layer, Adapted)]
    for layer in adapted:
        layer.on = False
    try:
        yield
    finally:
        for layer in adapted:
            layer.on = True


@torch.no_grad()
def merge(decoder: nn.Module, factors: Mapping[str, Tensor], scale: float = ALPHA / RANK) -> None:
    """Add what adapters learnt to the weights of a decoder that has none.

    Args:
        decoder: changed in place.
        factors: `layer.down` and `layer.up` for each linear layer, as `add_adapters` names them.
        scale: the adapters'.

    Raises:
        KeyError: if a linear layer has no factors.
    """
    for name, linear in _linear_layers(decoder).items():
        up, down = (factors[f"{name}.{factor}"].to(linear.weight) for factor in ("up", "down"))
        linear.weight += scale * up @ down


def _linear_layers(decoder: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in decoder.named_modules() if isinstance(layer, nn.Linear)}
