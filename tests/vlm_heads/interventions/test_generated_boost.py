"""IAT against a plain loop without a cache, in float64."""

import pytest
from torch import Tensor

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, Build, Tiny
from tests.support.plain_loop import Whole, loop, plain
from vlm_heads import attach
from vlm_heads.errors import BadOption
from vlm_heads.families import examine
from vlm_heads.interventions.generated_boost import GeneratedBoost


def test_the_loop_is_the_models_own_generation(model: Tiny) -> None:
    assert distance(loop(model, plain), model.generate()) < CLOSE


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_a_plain_loop(backend: str, model: Tiny) -> None:
    def rule(call: Whole) -> Tensor:
        logits = call.logits.clone()
        for row, generated in call.steps:
            logits[:, row, generated] += 2.5 * logits[:, row, generated].abs()
        return logits.softmax(-1) @ call.value

    expected = loop(model, rule, steps=7)
    with attach(model.model, [GeneratedBoost(strength=2.5, layers="all")], backend=backend) as run:
        got = model.generate(steps=7)
    assert distance(expected, got) < CLOSE
    assert run.receipt.interventions[0].layers == (0, 1, 2)


def test_the_first_token_is_the_models_own(model: Tiny) -> None:
    plainly = model.generate()
    with attach(model.model, [GeneratedBoost(strength=2.5, layers="all")]):
        got = model.generate()
    assert equal(plainly.logits[0], got.logits[0])
    assert not equal(plainly.logits[1], got.logits[1])


@pytest.mark.parametrize(("depth", "layers"), [(32, range(5, 18)), (10, range(2, 6)), (3, {0, 1})])
def test_the_papers_layers_keep_their_proportion(depth: int, layers: range | set[int], tiny: Build) -> None:
    # 5 / 32 and 18 / 32 of the depth: of three layers 0.47 and 1.69
    assert GeneratedBoost().layers_in(examine(tiny("llava", num_hidden_layers=depth).model)) == set(layers)


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(BadOption, match="strength"):
        GeneratedBoost(strength=-0.5)
