"""Reads and changes the hidden state between decoder layers, while an attach lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from vlm_kernels import KeyClass

from vlm_heads.attached.generations import TrackedGeneration
from vlm_heads.attached.tracking import Tracker
from vlm_heads.blind import Recording, last_positions
from vlm_heads.families import Anatomy, mlps
from vlm_heads.lenses.base import Lens
from vlm_heads.receipt import LayerTally, Receipt
from vlm_heads.steering.base import Steering
from vlm_heads.stream_call import IMAGE, StreamCall
from vlm_heads.token_head import TokenHead

Acting = list[tuple[int, Steering, LayerTally]]  # place of its memory, and its tally on a layer


class StreamHooks:
    """Hooks where lenses read the hidden state, and where steering changes it.

    Only the forwards of generations are changed. Of extra passes the hidden states are kept, where steering compares
    them; a second stream's forwards are left alone.

    Args:
        anatomy: of the model.
        tracker: knows which generation a forward belongs to.
        head: the model's end.
        receipt: with a part for every intervention.
        lenses: those that are attached.
        steering: those that are attached, by their place among the interventions.
        prepared: what every generation's memory starts with, by intervention.
        tower: the MLPs of the vision tower; none where no method changes what they give.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        tracker: Tracker,
        head: TokenHead,
        receipt: Receipt,
        lenses: Sequence[Lens],
        steering: Mapping[int, Steering],
        prepared: Sequence[Mapping[Any, Any]],
        tower: Sequence[nn.Module],
    ) -> None:
        self._anatomy = anatomy
        self._tracker = tracker
        self._head = head
        self._read = {layer for lens in lenses for layer in lens.reads(anatomy)}
        self._compared: set[int] = set()
        self._keeping: list[int] = []  # places of the memories that keep the image
        self._after_layer: dict[int, Acting] = {}
        self._after_mlp: dict[int, Acting] = {}
        self._tower = tower
        self._in_tower = [
            (one, prepared[at], receipt.interventions[at]) for at, one in steering.items() if one.in_tower
        ]
        for index, one in steering.items():
            layers = one.layers_in(anatomy)
            self._compared |= {layer + 1 for layer in layers if one.compares}
            self._read |= layers if one.asks_head else set()
            self._keeping += [index] if one.keeps_image else []
            places = self._after_layer if one.site == "layer" else self._after_mlp
            for layer in sorted(layers):
                tally = receipt.interventions[index].tallies.setdefault(layer, LayerTally())
                places.setdefault(layer, []).append((index, one, tally))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the hooks run while the context lasts."""
        handles = [
            (*self._anatomy.layers, self._head.norm)[layer].register_forward_pre_hook(
                _between_graphs(self._reading(layer)), with_kwargs=True
            )
            for layer in sorted(self._read | self._compared)
        ]
        if self._keeping:
            first = self._anatomy.layers[0]
            handles.append(first.register_forward_pre_hook(_between_graphs(self._keep_image), with_kwargs=True))
        modules = dict(enumerate(self._anatomy.layers)), mlps(self._anatomy)
        for places, module in zip((self._after_layer, self._after_mlp), modules, strict=True):
            handles += [
                module[layer].register_forward_hook(_between_graphs(self._changing(layer, acting)), with_kwargs=True)
                for layer, acting in places.items()
            ]
        handles += [
            module.register_forward_hook(_between_graphs(self._turning(layer)))
            for layer, module in enumerate(self._tower)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _reading(self, layer: int) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            under_way = None if self._head.asked.under_way else self._tracker.under_way
            if isinstance(under_way, Recording):
                if layer in self._compared:
                    under_way.entering[layer] = last_positions(_hidden(args, kwargs), under_way.ends)[:, 0]
            elif under_way is not None and layer in self._read and under_way.key_map.any_image:
                ends = under_way.key_map.last_rows if under_way.prefill else None
                under_way.entering[layer] = last_positions(_hidden(args, kwargs).detach(), ends)[:, 0]

        return read

    def _keep_image(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = self._tracker.under_way
        if isinstance(state, TrackedGeneration) and state.prefill and state.key_map.any_image:
            seen = state.key_map.classes[:, state.key_map.turn_start :] == KeyClass.IMAGE
            hidden = _hidden(args, kwargs)
            for index in self._keeping:
                state.memories[index][IMAGE] = hidden * seen[..., None].to(hidden)

    def _changing(self, layer: int, acting: Acting) -> Callable[..., Any]:
        def change(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            state = self._tracker.under_way
            if not isinstance(state, TrackedGeneration) or not state.key_map.any_image:
                return None
            leaving: Tensor = output[0] if isinstance(output, tuple) else output
            changed = self._changed(layer, acting, state, _hidden(args, kwargs), leaving)
            if changed is leaving:
                return None
            state.touched = True
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return change

    def _turning(self, layer: int) -> Callable[..., Any]:
        def turn(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not self._tracker.encoding:
                return None
            for one, known, receipt in self._in_tower:
                output = one.steer_tower(layer, output, known)
                receipt.pictures += len(output) if layer == 0 else 0
            return output

        return turn

    def _changed(
        self, layer: int, acting: Acting, state: TrackedGeneration, entering: Tensor, leaving: Tensor
    ) -> Tensor:
        """Return what leaves, changed by each method in turn in the rows that have an image."""
        for index, one, tally in acting:
            call = StreamCall(layer, entering, leaving, state, self._head, state.memories[index], tally)
            changed = one.steer(call)
            if changed is not None:
                leaving = torch.where(state.key_map.has_image[:, None, None], changed, leaving)
        return leaving


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _between_graphs(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that a compiled model calls between two graphs: its state changes from step to step."""
    disabled: Callable[..., Any] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled
