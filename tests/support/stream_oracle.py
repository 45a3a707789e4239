"""A stream's token logits written out: float64, one row after the other, nothing cached, and attention by a rule."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from tests.support.families import IMAGE, Inputs
from tests.support.uncached import grown


@dataclass
class Whole:
    """One layer's attention over the whole sequence so far, of one unpadded row.

    Attributes:
        layer: zero-based.
        logits: `[Hq, T, T]` in float64, `-inf` where a key comes later.
        value: `[Hq, T, D]`.
        image: bool `[T]`.
        prompt: tokens of the prompt. Row `prompt - 1` predicts the first token of the answer.
    """

    layer: int
    logits: Tensor
    value: Tensor
    image: Tensor
    prompt: int

    @property
    def predicting(self) -> range:
        """The rows that predicted a token when they were new."""
        return range(self.prompt - 1, self.logits.shape[1])


Rule = Callable[[Whole], Tensor]
Around = Callable[[PreTrainedModel, Inputs], AbstractContextManager[None]]


def plainly(call: Whole) -> Tensor:
    """Return plain attention `[Hq, T, D]`."""
    return call.logits.softmax(-1) @ call.value


def padded() -> Inputs:
    """Return a left-padded batch of two prompts, each with a picture of four positions."""
    torch.manual_seed(3)
    ids = torch.tensor([[1, 5, *[IMAGE] * 4, 7, 8, 9, 10, 11], [0, 0, 0, 1, *[IMAGE] * 4, 9, 12, 13]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": torch.randn(2, 3, 28, 28)}


def alone(inputs: Inputs) -> list[Inputs]:
    """Return each row of a batch by itself, without padding; each has one picture."""
    rows = []
    for index, mask in enumerate(inputs["attention_mask"].bool()):
        row = {name: inputs[name][index][mask][None] for name in ("input_ids", "attention_mask")}
        rows.append({**row, "pixel_values": inputs["pixel_values"][index : index + 1]})
    return rows


@dataclass(frozen=True)
class Stream:
    """What a stream does otherwise than the first.

    Attributes:
        rule: computes attention.
        around: given a model in float64 and one row, makes a context in which the picture's features are others.
        text_only: whether image tokens are deleted.
    """

    rule: Rule = plainly
    around: Around = lambda _, __: nullcontext()
    text_only: bool = False


def streamed(model: PreTrainedModel, inputs: Inputs, answer: Tensor, stream: Stream = Stream()) -> Tensor:
    """Return log-probabilities `[B, V]` in float64 after the prompt and the answer so far `[B, t]`.

    Args:
        model: a tiny Llava; it stays as it is.
        inputs: of a batch padded on the left, a picture in each row.
        answer: may be empty.
        stream: what is otherwise.
    """
    exact = copy.deepcopy(model).double()
    found = []
    for row, said in zip(alone(inputs), answer, strict=True):
        row = {**row, "pixel_values": row["pixel_values"].double()}
        if stream.text_only:
            ids = row["input_ids"][row["input_ids"] != IMAGE][None]
            row = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        whole = grown(exact, row, said[None])
        written = _written(exact, stream.rule, whole["input_ids"][0] == IMAGE, row["input_ids"].shape[1])
        with torch.no_grad(), stream.around(exact, row), written:
            found.append(exact(**whole).logits[0, -1])
    return torch.stack(found).log_softmax(-1)


def weighed(streams: Sequence[Tensor], weights: Sequence[float], bound: float) -> Tensor:
    """Return log-probabilities of weighed streams among the tokens that the first one finds plausible."""
    z = sum(weight * stream for weight, stream in zip(weights, streams, strict=True))
    assert isinstance(z, Tensor)
    p = streams[0].exp()
    z[p < bound * p.amax(-1, keepdim=True)] = -math.inf
    return z.log_softmax(-1)


class _Numbered(Protocol):
    """An attention module of transformers."""

    layer_idx: int


@contextmanager
def _written(model: PreTrainedModel, rule: Rule, image: Tensor, prompt: int) -> Iterator[None]:
    def attention(
        module: _Numbered, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: object
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        keys, values = (states[0].repeat_interleave(groups, dim=0) for states in (key, value))
        later = torch.ones(query.shape[2], keys.shape[1]).triu(1).bool()
        logits = (query[0] @ keys.transpose(-1, -2) * scaling).masked_fill(later, -torch.inf)
        return rule(Whole(module.layer_idx, logits, values, image, prompt))[None].transpose(1, 2), None

    AttentionInterface.register("streamed_out", attention)
    AttentionMaskInterface.register("streamed_out", sdpa_mask)
    model.set_attn_implementation({"text_config": "streamed_out"})
    yield
