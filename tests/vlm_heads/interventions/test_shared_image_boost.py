"""Devils against attention written out in float64."""

import pytest
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import Oracle, Written
from vlm_heads import attach
from vlm_heads.errors import BadOption
from vlm_heads.families import examine
from vlm_heads.interventions.shared_image_boost import SharedImageBoost


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_written_out_attention(backend: str, model: Tiny, oracle: Oracle) -> None:
    def rule(call: Written) -> Tensor:
        logits = call.logits.clone()
        logits[:, -1, call.image] += 2.0 * logits[:, -1, call.image].abs().mean(0, keepdim=True)
        return logits.softmax(-1) @ call.value

    expected = oracle.generate(rule)
    with attach(model.model, [SharedImageBoost(strength=2.0, layers="all")], backend=backend):
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert distance(expected.logits[0], model.generate().logits[0]) > 1e-3


def test_the_papers_layers_keep_their_proportion(tiny: Build) -> None:
    # 5 / 32 * 10 = 1.6 and 18 / 32 * 10 = 5.6: from the third layer to the sixth
    anatomy = examine(tiny("llava", num_hidden_layers=10).model)
    assert SharedImageBoost().layers_in(anatomy) == {2, 3, 4, 5}


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(BadOption, match="strength"):
        SharedImageBoost(strength=-0.5)
