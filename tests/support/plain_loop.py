"""Generation without a cache in float64, its attention written out by a test, with nothing of the library.

Every step computes the whole sequence anew: a rule sees all rows of a layer and edits each as it was when it was new.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from tests.support.families import IMAGE, Tiny


@dataclass
class Whole:
    """One layer's attention over all positions of one unpadded row.

    Attributes:
        layer: zero-based.
        logits: `[Hq, T, T]`, `-inf` where a key is hidden.
        value: `[Hq, T, D]`.
        image: bool `[T]`.
        prompt: how many positions the prompt has.
    """

    layer: int
    logits: Tensor
    value: Tensor
    image: Tensor
    prompt: int

    @property
    def steps(self) -> list[tuple[int, slice]]:
        """Row and generated keys of every step after the first: the newest key is the row's own."""
        return [(row, slice(self.prompt, row + 1)) for row in range(self.prompt, self.logits.shape[1])]


@dataclass
class Said:
    """What a loop generated, as `generate` returns it."""

    sequences: Tensor
    logits: tuple[Tensor, ...]


def plain(call: Whole) -> Tensor:
    """Plain attention `[Hq, T, D]`."""
    return call.logits.softmax(-1) @ call.value


def loop(tiny: Tiny, rule: Callable[[Whole], Tensor], steps: int = 5) -> Said:
    """Return what a tiny Llava says greedily, the rule computing attention."""
    model, ids = copy.deepcopy(tiny.model).double(), tiny.inputs["input_ids"]
    prompt, logits = ids.shape[1], []

    def attention(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        _: Tensor | None,
        scaling: float,
        **__: object,
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        keys, values = (states[0].repeat_interleave(groups, dim=0) for states in (key, value))
        found = query[0] @ keys.transpose(-1, -2) * scaling
        found = found.masked_fill(torch.ones(found.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
        layer = module.layer_idx
        assert isinstance(layer, int)
        output = rule(Whole(layer, found, values, ids[0] == IMAGE, prompt))
        return output[None].transpose(1, 2), None

    AttentionInterface.register("looped", attention)
    AttentionMaskInterface.register("looped", sdpa_mask)
    model.set_attn_implementation({"text_config": "looped"})
    for _ in range(steps):
        with torch.no_grad():
            made = model(input_ids=ids, pixel_values=tiny.inputs["pixel_values"].double(), use_cache=False)
        logits.append(made.logits[:, -1].float())
        ids = torch.cat([ids, logits[-1].argmax(-1, keepdim=True)], dim=1)
    return Said(ids, tuple(logits))
