"""A stand-in for vLLM's Transformers backend: its attention function, one request at a time, and no cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tests.support.families import IMAGE, Build, Tiny

Forward = Callable[[Sequence[int]], Tensor]


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Return `[T, Hq * D]` as vLLM's function does: the rows of a batch of one, the heads one after another."""
    output = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True, scale=settings["scaling"])
    return output[0].transpose(0, 1).flatten(-2), None


@contextmanager
def stand_in(build: Build) -> Iterator[Tiny]:
    """Give a tiny LLaVA whose language model asks for the attention `vllm`, which is the stand-in."""
    AttentionInterface.register("vllm", packed_attention)
    tiny = build("llava")
    text: Any = tiny.model.config.get_text_config()
    text._attn_implementation = "vllm"
    try:
        yield tiny
    finally:
        del AttentionInterface._global_mapping["vllm"]


def forward(tiny: Tiny, ids: Sequence[int]) -> Tensor:
    """Return the token logits of every position, `[T, V]`; the picture is shown where the ids have its tokens."""
    inputs: dict[str, Any] = {"input_ids": torch.tensor([list(ids)])}
    if IMAGE in ids:
        inputs["pixel_values"] = tiny.inputs["pixel_values"]
    with torch.no_grad():
        logits: Tensor = tiny.model(**inputs, use_cache=False).logits[0]
    return logits


def prompt(tiny: Tiny) -> list[int]:
    """Return the prompt's ids, image tokens included."""
    ids: list[int] = tiny.inputs["input_ids"][0].tolist()
    return ids


def greedy(tiny: Tiny, steps: int, before: Callable[[list[int]], None] = lambda _: None) -> list[int]:
    """Return generated ids, every step over the whole sequence; `before` hears the ids of each forward."""
    ids = prompt(tiny)
    for _ in range(steps):
        before(ids)
        ids = [*ids, int(forward(tiny, ids)[-1].argmax())]
    return ids[len(prompt(tiny)) :]
