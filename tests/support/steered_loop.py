"""A plain, uncached loop in float64 over one row, whose layers and MLPs a test changes by ordinary hooks."""

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Change = Callable[[int, Tensor, Tensor], Tensor]  # layer, what entered, what leaves `[T, width]` -> in its place
Weigh = Callable[[Tensor, list[Tensor]], Tensor]  # token logits, what left each layer at the last position


@dataclass
class SteeredLoop:
    """One prompt of a tiny Llava with its picture, asked again from the start for every token.

    Attributes:
        model: in float64.
        ids: int64 `[T]`, without padding.
        pixels: `[1, 3, H, W]`.
        step: tokens of the answer so far.
        states: in the forward that runs: what entered layer 0, and what left each layer so far, `[T, width]` each.
    """

    model: PreTrainedModel
    ids: Tensor
    pixels: Tensor
    step: int = 0
    states: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, model: PreTrainedModel, ids: Tensor, pixels: Tensor) -> "SteeredLoop":
        """Return a loop over a copy of the model."""
        return cls(copy.deepcopy(model).double(), ids, pixels.double())

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers."""
        return list(self.model.get_decoder().layers)

    def left(self, ids: Tensor, shown: bool = True) -> list[Tensor]:
        """Return what each layer leaves at the last position of a prompt, `[width]` each, nothing changed."""
        kept: list[Tensor] = []
        with ExitStack() as undo:
            for layer in self.layers:
                handle = layer.register_forward_hook(lambda _, __, output: kept.append(_first(output)[0, -1].clone()))
                undo.callback(handle.remove)
            self._run(ids, shown)
        return kept

    def directions(self) -> list[Tensor]:
        """Return, by layer, what leaves it at the prompt's last position with the image less without it."""
        without = self.ids[self.ids != 150]
        both = zip(self.left(self.ids), self.left(without, shown=False), strict=True)
        return [sighted - blind for sighted, blind in both]

    def answer(
        self, steps: int, *, layers: Mapping[int, Change], mlps: Mapping[int, Change], weigh: Weigh
    ) -> tuple[list[int], list[Tensor]]:
        """Return the greedy answer and the log-probabilities `[V]` each of its tokens was chosen from."""
        ids, scores = self.ids, []
        for self.step in range(steps):
            self.states.clear()
            with ExitStack() as undo:
                for index, change in layers.items():
                    undo.callback(_changing(self.layers[index], index, change).remove)
                for index, change in mlps.items():
                    undo.callback(_changing(self.layers[index].get_submodule("mlp"), index, change).remove)
                for layer in self.layers:
                    handle = layer.register_forward_hook(lambda _, __, output: self.states.append(_first(output)[0]))
                    undo.callback(handle.remove)
                enter = self.layers[0].register_forward_pre_hook(lambda _, args: self.states.append(args[0][0]))
                undo.callback(enter.remove)
                logits = self._run(ids, shown=True)
            scores.append(weigh(logits, [state[-1] for state in self.states[1:]]).log_softmax(-1))
            ids = torch.cat([ids, scores[-1].argmax()[None]])
        return ids[len(self.ids) :].tolist(), scores

    def _run(self, ids: Tensor, shown: bool) -> Tensor:
        pictures: dict[str, Any] = {"pixel_values": self.pixels} if shown else {}
        with torch.no_grad():
            logits: Tensor = self.model(input_ids=ids[None], use_cache=False, **pictures).logits
        return logits[0, -1]


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _changing(module: nn.Module, layer: int, change: Change) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        changed = change(layer, args[0][0], _first(output)[0])[None]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return module.register_forward_hook(hook)
