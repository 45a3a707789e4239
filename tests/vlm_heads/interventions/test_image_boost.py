"""PAI against attention written out in float64."""

import pytest
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import Oracle, Written
from vlm_heads import attach
from vlm_heads.errors import BadOption
from vlm_heads.families import examine
from vlm_heads.interventions.image_boost import ImageBoost


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_written_out_attention(backend: str, model: Tiny, oracle: Oracle) -> None:
    def rule(call: Written) -> Tensor:
        logits = call.logits.clone()
        logits[:, -1, call.image] += 1.5 * logits[:, -1, call.image].abs()
        return logits.softmax(-1) @ call.value

    expected = oracle.generate(rule)
    with attach(model.model, [ImageBoost(strength=1.5, layers="all")], backend=backend) as run:
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert distance(expected.logits[0], model.generate().logits[0]) > 1e-3
    assert run.receipt.interventions[0].layers == (0, 1, 2)


def test_the_papers_layers_are_all_but_two(tiny: Build) -> None:
    assert ImageBoost().layers_in(examine(tiny("llava").model)) == {2}


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(BadOption, match="strength"):
        ImageBoost(strength=-0.5)
