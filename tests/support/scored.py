"""Tiny random models with a processor, and a plain account of one forward: the specification of head scores."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedModel, ProcessorMixin

from vlm_heads.models.planted import build_planted
from vlm_heads.models.prompts import model_inputs
from vlm_heads.scorers import Example

Scored = tuple[PreTrainedModel, ProcessorMixin]


def random_model(key_heads: int, seed: int = 0) -> Scored:
    """Return a random model of 4 layers with 4 heads of size 16 that reads the planted model's words, yes and no."""
    planted, processor = build_planted()
    processor.tokenizer.add_tokens(["Yes", "No"])
    config = copy.deepcopy(planted.config)
    config.text_config.num_key_value_heads = key_heads
    config.text_config.vocab_size = len(processor.tokenizer)
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # large enough that attention is not uniform and that heads differ
            parameter.mul_(1.0 if "norm" in name else 8.0 if "q_proj" in name or "k_proj" in name else 4.0)
    return model, processor


@dataclass
class Account:
    """What one forward over one row computes.

    Attributes:
        ids: int64 `[T]`.
        begin: columns of the prompt.
        entering: `[T, width]` by layer, the residual stream.
        last: `[T, width]`, what the last layer gives.
        weights: `[Hq, T, T]` by layer.
        values: `[Hq, T, D]` by layer, repeated where heads share them.
        heads: `[T, Hq, D]` by layer.
        logits: `[T, V]`.
    """

    ids: Tensor
    begin: int
    entering: list[Tensor]
    last: Tensor
    weights: list[Tensor]
    values: list[Tensor]
    heads: list[Tensor]
    logits: Tensor

    @property
    def image(self) -> Tensor:
        """bool `[T]`: which keys are the picture's."""
        return self.ids == 4


def account(scored: Scored, example: Example) -> Account:
    """Run one plain forward over prompt and answer with eager attention, and return everything."""
    model, processor = scored
    inputs = dict(model_inputs(model, processor, [example.image], [example.prompt]))  # type: ignore[list-item]  # pictures
    begin = inputs["input_ids"].shape[1]
    answer = processor.tokenizer(example.answer, add_special_tokens=False)["input_ids"]
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer]).long()], dim=1)
    layers = model.model.language_model.layers
    values, ends = dict[int, Tensor](), list[Tensor]()
    handles = [
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, out, at=at: values.__setitem__(at, out[0]))
        for at, layer in enumerate(layers)
    ]
    handles.append(layers[-1].register_forward_hook(lambda _, __, out: ends.append(out)))
    model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad():
            out = model(
                input_ids=ids, pixel_values=inputs["pixel_values"], output_attentions=True, output_hidden_states=True,
                use_cache=False,
            )  # fmt: skip
    finally:
        model.set_attn_implementation({"text_config": "sdpa"})
        for handle in handles:
            handle.remove()
    weights = [one[0] for one in out.attentions]
    repeated = [
        one.view(len(one), -1, 16).repeat_interleave(4 * 16 // one.shape[1], dim=1).transpose(0, 1)
        for _, one in sorted(values.items())
    ]
    heads = [(weight @ value).transpose(0, 1) for weight, value in zip(weights, repeated, strict=True)]
    end = ends[0][0] if ends[0].dim() == 3 else ends[0]
    entering = [one[0] for one in out.hidden_states[: len(layers)]]
    return Account(ids[0], begin, entering, end, weights, repeated, heads, out.logits[0])


def written(scored: Scored, layer: int, head: int, output: Tensor) -> Tensor:
    """Return `[width]`: what one head's output `[D]` writes into the residual stream."""
    matrix: Tensor = scored[0].model.language_model.layers[layer].self_attn.o_proj.weight
    found: Tensor = matrix[:, 16 * head : 16 * head + 16].detach() @ output
    return found


def row_of_word(scored: Scored, token: int) -> Tensor:
    """Return `[width]`: the output layer's row of a token."""
    found: Tensor = scored[0].lm_head.weight.detach()[token]
    return found


def id_of(scored: Scored, word: str) -> int:
    """Return the id of a word of one token."""
    (token,) = scored[1].tokenizer(word, add_special_tokens=False)["input_ids"]
    return int(token)
