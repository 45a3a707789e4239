"""SPIN against attention written out in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from vlm_heads import attach
from vlm_heads.errors import BadOption
from vlm_heads.interventions.low_image_heads import LowImageHeads


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_written_out_attention(backend: Any, model: Any, oracle: Any, far: Any) -> None:
    first: dict[int, list[int]] = {}

    def rule(call: Any) -> Tensor:
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
    assert far(expected, got) < 2e-4
    assert (expected.logits[0] - model.generate().logits[0]).abs().max() > 1e-2
    assert run.receipt.interventions[0].heads() == first


def test_rows_before_the_last_are_left_alone(model: Any) -> None:
    with torch.no_grad():
        plain = model.model(**model.inputs).logits
        with attach(model.model, [LowImageHeads(factor=0.0, kept=0.0)]):
            got = model.model(**model.inputs).logits
    assert torch.equal(plain[:, :-1], got[:, :-1])
    assert not torch.equal(plain[:, -1], got[:, -1])


@pytest.mark.parametrize("wrong", [{"factor": -0.1}, {"kept": 1.5}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=next(iter(wrong))):
        LowImageHeads(**wrong)
