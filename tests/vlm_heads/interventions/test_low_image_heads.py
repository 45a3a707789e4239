"""SPIN against attention written out in float64."""

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, Tiny
from tests.support.oracle import Oracle, Written
from vlm_heads import attach
from vlm_heads.errors import BadOption
from vlm_heads.interventions.low_image_heads import LowImageHeads


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_written_out_attention(backend: str, model: Tiny, oracle: Oracle) -> None:
    first: dict[int, list[int]] = {}

    def rule(call: Written) -> Tensor:
        output = call.logits.softmax(-1) @ call.value
        # of four heads 0.6 * 4 = 2.4 are kept, rounded down: the two with the lowest sum are turned down
        low = call.logits[:, -1, call.image].sum(-1).argsort()[:2]
        output[low, -1] *= 0.1
        if call.prefill:
            first[call.layer] = [int(head in low) for head in range(4)]
        return output

    expected = oracle.generate(rule)
    with attach(model.model, [LowImageHeads(factor=0.1, kept=0.6)], backend=backend) as run:
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert distance(expected.logits[0], model.generate().logits[0]) > 1e-2
    assert run.receipt.interventions[0].heads() == first


def test_rows_before_the_last_are_left_alone(model: Tiny) -> None:
    with torch.no_grad():
        plain = model.model(**model.inputs).logits
        with attach(model.model, [LowImageHeads(factor=0.0, kept=0.0)]):
            got = model.model(**model.inputs).logits
    assert equal(plain[:, :-1], got[:, :-1])
    assert not equal(plain[:, -1], got[:, -1])


@pytest.mark.parametrize("wrong", [{"factor": -0.1}, {"kept": 1.5}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadOption, match=next(iter(wrong))):
        LowImageHeads(**wrong)
