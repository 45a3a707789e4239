"""Adapters: the model that was, at the start; the same model with or without them, at the end."""

import pytest
import torch
from vlm_evals.scenes.small.adapters import Adapted, add_adapters, merge

from tests.support.small_base import tiny_base

IDS = torch.arange(20, 60).reshape(2, 20)


def logits(base):
    with torch.no_grad():
        return base.model(IDS).logits


def learnt(factors):
    """Return factors as if they had been trained."""
    generator = torch.Generator().manual_seed(1)
    return {name: 0.1 * torch.randn(factor.shape, generator=generator) for name, factor in factors.items()}


def put(factors, values):
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(values[name])


def test_an_adapted_model_starts_as_the_model_it_was():
    base = tiny_base()
    before = logits(base)
    factors = add_adapters(base.model.model, seed=0)
    assert torch.equal(logits(base), before)
    assert [name for name, parameter in base.model.named_parameters() if parameter.requires_grad] == [
        f"model.{name}" for name in factors
    ]


def test_every_linear_layer_of_the_decoder_has_an_adapter():
    base = tiny_base()
    factors = add_adapters(base.model.model, seed=0, rank=4)
    layers = [name for name, layer in base.model.named_modules() if isinstance(layer, Adapted)]
    assert len(layers) == 2 * 7  # layers times query, key, value, output, gate, up and down
    assert len(factors) == 2 * len(layers)
    assert factors["layers.1.mlp.down_proj.down"].shape == (4, 96)
    assert factors["layers.1.mlp.down_proj.up"].shape == (48, 4)


def test_merged_weights_are_the_same_model():
    adapted, merged, wrong = tiny_base(), tiny_base(), tiny_base()
    factors = add_adapters(adapted.model.model, seed=0)
    values = learnt(factors)
    put(factors, values)
    merge(merged.model.model, values)
    merge(wrong.model.model, values, scale=1.0)
    assert torch.allclose(logits(merged), logits(adapted), atol=1e-4)
    assert not torch.allclose(logits(wrong), logits(adapted), atol=1e-2)


def test_products_in_bfloat16_are_near_and_leave_the_rest_alone():
    exact, near = tiny_base(), tiny_base()
    add_adapters(near.model.model, seed=0, frozen=torch.bfloat16)
    out = logits(near)
    assert out.dtype == torch.float32
    assert not torch.equal(out, logits(exact))
    assert torch.nn.functional.cosine_similarity(out, logits(exact), dim=-1).min() > 0.99


def test_factors_of_another_model_are_refused():
    base = tiny_base()
    factors = learnt(add_adapters(tiny_base().model.model, seed=0))
    del factors["layers.1.mlp.up_proj.up"]
    with pytest.raises(KeyError, match=r"layers\.1\.mlp\.up_proj\.up"):
        merge(base.model.model, factors)
