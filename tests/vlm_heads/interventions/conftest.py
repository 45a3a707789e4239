"""Attention written out in float64 inside a tiny Llava: the oracle that every intervention is held against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

IMAGE = 150


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


@dataclass
class Oracle:
    """Generates with attention that a rule writes out."""

    tiny: Any
    hidden: dict[int, Tensor] = field(default_factory=dict)
    blind: dict[int, Tensor] = field(default_factory=dict)

    def generate(self, rule: Rule, steps: int = 5) -> Any:
        """Return what `Tiny.generate` returns, the rule computing attention."""
        with self._written(rule, self.tiny.inputs["input_ids"][0]):
            return self.tiny.generate(steps)

    def look_without_image(self) -> dict[int, Tensor]:
        """Return each layer's heads `[Hq, D]` at the end of the prompt without its image tokens."""
        ids = self.tiny.inputs["input_ids"][0]
        text = ids[ids != IMAGE]

        def keep(call: Written) -> Tensor:
            output = plain(call)
            self.blind[call.layer] = output[:, -1]
            return output

        with self._written(keep, text), torch.no_grad():
            self.tiny.model(input_ids=text[None])
        return self.blind

    @contextmanager
    def _written(self, rule: Rule, prompt: Tensor) -> Iterator[None]:
        model = self.tiny.model

        def attention(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **_: Any
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


def distance(left: Any, right: Any) -> float:
    """Return the largest difference of token logits; the sequences must be the same."""
    assert torch.equal(left.sequences, right.sequences)
    return max((a - b).abs().max().item() for a, b in zip(left.logits, right.logits, strict=True))


@pytest.fixture(params=[4, 2], ids=["own keys", "grouped keys"])
def model(request: pytest.FixtureRequest, tiny: Any) -> Any:
    """A tiny random Llava with as many key heads as query heads, or half as many."""
    return tiny("llava", num_key_value_heads=request.param)


@pytest.fixture
def oracle(model: Any) -> Oracle:
    """The oracle on the same model."""
    return Oracle(model)


@pytest.fixture
def far() -> Callable[[Any, Any], float]:
    """Measures the distance of two generations."""
    return distance
