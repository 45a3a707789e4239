"""Oracles with nothing of the library: VHR by plain hooks, and attention written out in float64.

`HookedVhr` runs on every family. `Oracle` computes the attention of a tiny Llava by a rule that a test writes down.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from tests.support.compare import Generated
from tests.support.families import BYPASSING, IMAGE, Tiny

Hook = Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]  # before a forward


@dataclass
class HookedVhr:
    """VHR on one unpadded row, written with forward hooks on the output projections and nothing of the library.

    The prompt without its image tokens runs first and each projection's input at the last position is kept. With the
    image, heads whose input moved more than the lower median are scaled, layer by layer, and stay chosen. Where a
    family gates its heads, what they give before the gate is compared.
    """

    tiny: Tiny
    gain: float
    layers: set[int]
    heads: int = 4
    outlier_filter: bool = True
    blind: dict[int, Tensor] = field(default_factory=dict)
    chosen: dict[int, Tensor] = field(default_factory=dict)
    gates: dict[int, Tensor] = field(default_factory=dict)

    def _split(self, flat: Tensor) -> Tensor:
        return flat.reshape(*flat.shape[:-1], self.heads, -1)

    def _at_the_end(self, layer: int, flat: Tensor) -> Tensor:
        heads = self._split(flat)[0, -1]
        return heads / self.gates[layer] if layer in self.gates else heads

    def _hear_gates(self) -> list[RemovableHandle]:
        def hear(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
                self.gates[layer] = self._split(output)[0, -1].chunk(2, dim=-1)[1].sigmoid()

            return hook

        return [module.register_forward_hook(hear(layer)) for layer, module in self.tiny.gates().items()]

    def look_without_image(self) -> None:
        """Fill `blind` from the prompt with its image tokens deleted."""
        handles = self._hear_gates() + [
            projection.register_forward_pre_hook(
                lambda _, args, layer=layer: self.blind.__setitem__(layer, self._at_the_end(layer, args[0]).clone())
            )
            for layer, projection in self.tiny.projections().items()
        ]
        entry = self.tiny.model.language_model if self.tiny.family in BYPASSING else self.tiny.model
        with torch.no_grad():
            entry(input_ids=self.tiny.text, use_cache=False)
        for handle in handles:
            handle.remove()

    def _choose(self, layer: int, sighted: Tensor) -> Tensor:
        moved = (sighted - self.blind[layer]).norm(dim=-1)
        surge = self.blind[layer].norm(dim=-1)
        if self.outlier_filter:
            drop = (moved > moved.mean() + moved.std()) & (surge > surge.mean() + surge.std())
            moved = torch.where(drop, torch.zeros_like(moved), moved)
        chosen: Tensor = moved > moved.sort().values[(self.heads - 1) // 2]
        return chosen

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Scale the chosen heads while the context lasts."""
        if not self.blind:
            self.look_without_image()

        def scale(layer: int) -> Hook:
            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                heads = self._split(args[0])
                if layer not in self.chosen:
                    self.chosen[layer] = self._choose(layer, self._at_the_end(layer, args[0]))
                factor = torch.where(self.chosen[layer], self.gain, 1.0)[:, None]
                return ((heads * factor).reshape(args[0].shape), *args[1:])

            return hook

        projections, acting = self.tiny.projections(), self.layers & {*self.tiny.projections()}
        handles = self._hear_gates()
        handles += [projections[layer].register_forward_pre_hook(scale(layer)) for layer in acting]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass
class Written:
    """One layer's attention of one unpadded row in float64.

    Attributes:
        layer: zero-based.
        logits: `[Hq, Tq, Tk]`, `-inf` where a key is hidden.
        value: `[Hq, Tk, D]`.
        image: bool `[Tk]`.
        generated: bool `[Tk]`.
        hidden: `[T, width]`, what entered the layer at prefill.
        prefill: whether the rows are the prompt's.
    """

    layer: int
    logits: Tensor
    value: Tensor
    image: Tensor
    generated: Tensor
    hidden: Tensor
    prefill: bool

    @property
    def after_image(self) -> int:
        """The first row after the image."""
        return int(self.image.nonzero().max()) + 1 if self.prefill else 0


Rule = Callable[[Written], Tensor]


def plain(call: Written) -> Tensor:
    """Plain attention `[Hq, Tq, D]`."""
    return call.logits.softmax(-1) @ call.value


class _Numbered(Protocol):
    """An attention module of transformers."""

    layer_idx: int


@dataclass
class Oracle:
    """Generates with attention that a rule writes out."""

    tiny: Tiny
    hidden: dict[int, Tensor] = field(default_factory=dict)
    blind: dict[int, Tensor] = field(default_factory=dict)

    def generate(self, rule: Rule, steps: int = 5) -> Generated:
        """Return what `Tiny.generate` returns, the rule computing attention."""
        with self._written(rule, self.tiny.inputs["input_ids"][0]):
            return self.tiny.generate(steps)

    def look_without_image(self) -> dict[int, Tensor]:
        """Return each layer's heads `[Hq, D]` at the end of the prompt without its image tokens."""

        def keep(call: Written) -> Tensor:
            output = plain(call)
            self.blind[call.layer] = output[:, -1]
            return output

        with self._written(keep, self.tiny.text[0]), torch.no_grad():
            self.tiny.model(input_ids=self.tiny.text)
        return self.blind

    @contextmanager
    def _written(self, rule: Rule, prompt: Tensor) -> Iterator[None]:
        model = self.tiny.model

        def attention(
            module: _Numbered,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            mask: Tensor | None,
            scaling: float,
            **_: object,
        ) -> tuple[Tensor, None]:
            groups = query.shape[1] // key.shape[1]
            keys, values = (states[0].double().repeat_interleave(groups, dim=0) for states in (key, value))
            logits = query[0].double() @ keys.transpose(-1, -2) * scaling
            rows, seen = logits.shape[-2:]
            if rows > 1:
                logits = logits.masked_fill(torch.ones(rows, seen).triu(1).bool(), -torch.inf)
            columns = torch.arange(seen)
            image = torch.zeros(seen, dtype=torch.bool)
            image[: len(prompt)] = prompt == IMAGE
            call = Written(
                module.layer_idx, logits, values, image, columns >= len(prompt), self.hidden[module.layer_idx], rows > 1
            )
            return rule(call)[None].transpose(1, 2).to(query.dtype), None

        AttentionInterface.register("written_out", attention)
        AttentionMaskInterface.register("written_out", sdpa_mask)
        handles = [
            layer.register_forward_pre_hook(self._keep(index)) for index, layer in enumerate(self.tiny.decoder_layers)
        ]
        model.set_attn_implementation({"text_config": "written_out"})
        try:
            yield
        finally:
            model.set_attn_implementation({"text_config": "sdpa"})
            for handle in handles:
                handle.remove()

    def _keep(self, layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if args[0].shape[1] > 1:
                self.hidden[layer] = args[0][0]

        return keep
