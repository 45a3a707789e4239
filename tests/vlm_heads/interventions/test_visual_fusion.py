"""VAF against attention written out in float64."""

import pytest
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import CLOSE, Build, Tiny
from tests.support.oracle import Oracle, Written
from vlm_heads import attach
from vlm_heads.errors import BadOption
from vlm_heads.families import examine
from vlm_heads.interventions.visual_fusion import VisualFusion


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_written_out_attention(backend: str, model: Tiny, oracle: Oracle) -> None:
    def rule(call: Written) -> Tensor:
        logits = call.logits.clone()
        begin = int(call.image.nonzero().min())
        logits[:, call.after_image :, call.image] *= 3.0
        logits[:, call.after_image :, :begin] *= 0.2
        return logits.softmax(-1) @ call.value

    expected = oracle.generate(rule)
    with attach(model.model, [VisualFusion(image=3.0, system=0.2, layers="all")], backend=backend):
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert distance(expected.logits[0], model.generate().logits[0]) > 1e-3


def test_the_papers_layers_keep_their_proportion(tiny: Build) -> None:
    assert VisualFusion().layers_in(examine(tiny("llava", num_hidden_layers=10).model)) == {3, 4}
    assert VisualFusion().layers_in(examine(tiny("llava").model)) == {1}


@pytest.mark.parametrize("wrong", [{"image": -0.1}, {"system": float("inf")}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadOption, match=next(iter(wrong))):
        VisualFusion(**wrong)
