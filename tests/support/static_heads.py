"""Plain hooks that give every head a gain of its own: the specification of static gains."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from tests.support.families import Tiny
from tests.support.oracle import Hook


@contextmanager
def hooked(tiny: Tiny, gains: Tensor) -> Iterator[None]:
    """Multiply each head's part of what the output projections receive."""

    def scale(layer: int) -> Hook:
        def multiplied(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            heads = args[0].view(*args[0].shape[:2], gains.shape[1], -1)
            return ((heads * gains[layer][:, None]).flatten(-2), *args[1:])

        return multiplied

    handles = [module.register_forward_pre_hook(scale(layer)) for layer, module in tiny.projections().items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
