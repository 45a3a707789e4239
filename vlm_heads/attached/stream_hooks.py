"""Reads the hidden state between decoder layers, while an attach lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads.attached.generations import TrackedGeneration
from vlm_heads.attached.tracking import Tracker
from vlm_heads.families import Anatomy
from vlm_heads.token_head import TokenHead


class StreamHooks:
    """Hooks where lenses read the hidden state.

    Args:
        anatomy: of the model.
        tracker: knows which generation a forward belongs to.
        head: the model's end.
        read: layers whose entering hidden state lenses read; the number of layers stands for the last norm.
    """

    def __init__(self, anatomy: Anatomy, tracker: Tracker, head: TokenHead, read: Iterable[int]) -> None:
        self._tracker = tracker
        self._read = {layer: (*anatomy.layers, head.norm)[layer] for layer in sorted(set(read))}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the hooks run while the context lasts."""
        handles = [
            module.register_forward_pre_hook(_between_graphs(self._reading(layer)), with_kwargs=True)
            for layer, module in self._read.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _reading(self, layer: int) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            state = self._tracker.under_way
            if isinstance(state, TrackedGeneration) and state.key_map.any_image:
                hidden: Tensor = args[0] if args else kwargs["hidden_states"]
                state.entering[layer] = hidden[:, -1].detach().clone()

        return read


def _between_graphs(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that a compiled model calls between two graphs: its state changes from step to step."""
    disabled: Callable[..., Any] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled
