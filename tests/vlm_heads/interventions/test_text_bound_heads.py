"""AD-HH against attention written out in float64."""

import pytest
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import CLOSE, Tiny
from tests.support.oracle import Oracle, Written
from vlm_heads import HeadProfile, attach
from vlm_heads.errors import BadOption, NothingIntervened
from vlm_heads.interventions.text_bound_heads import TextBoundHeads

LISTED = ((0, 1), (1, 0), (1, 3), (2, 2))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_written_out_attention(backend: str, model: Tiny, oracle: Oracle) -> None:
    seen: list[bool] = []

    def rule(call: Written) -> Tensor:
        weights = call.logits.softmax(-1)
        for layer, head in LISTED:
            if layer == call.layer and not call.prefill:
                drop = bool(weights[head, -1, call.generated].sum() > 0.25)
                seen.append(drop)
                weights[head, -1, call.generated] *= not drop
        return weights @ call.value

    expected = oracle.generate(rule, steps=7)
    with attach(model.model, [TextBoundHeads(heads=LISTED, threshold=0.25)], backend=backend) as run:
        got = model.generate(steps=7)
    assert any(seen)
    assert not all(seen)
    assert distance(expected, got) < CLOSE
    assert run.receipt.interventions[0].mass_moved() > 0.25


def test_without_a_list_the_least_aware_head_of_a_layer_is_taken(model: Tiny, oracle: Oracle) -> None:
    profile_scores = [[4.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 9.0, 2.0]]
    profile = HeadProfile(scores=Tensor(profile_scores))
    with attach(model.model, [TextBoundHeads(threshold=0.0)], profile=profile):
        got = model.generate()
    with attach(model.model, [TextBoundHeads(heads="0.1+1.0+2.3", threshold=0.0)]):
        assert distance(got, model.generate()) == 0.0


def test_text_that_never_exceeds_the_threshold_is_left_alone(model: Tiny) -> None:
    with pytest.raises(NothingIntervened), attach(model.model, [TextBoundHeads(threshold=0.99)]):
        model.generate()


@pytest.mark.parametrize("heads", ["14", "a.b", "", "1.2+x"])
def test_a_list_that_cannot_be_read_is_refused(heads: str) -> None:
    with pytest.raises(BadOption, match=r"layer\.head"):
        TextBoundHeads(heads=heads)


@pytest.mark.parametrize("heads", ["3.0", "1.4"])
def test_a_head_outside_the_model_is_refused(heads: str, model: Tiny) -> None:
    with pytest.raises(BadOption, match="3 layers of 4 heads"), attach(model.model, [TextBoundHeads(heads=heads)]):
        pass
