"""EAH against a plain loop without a cache, in float64; the copied head by hand."""

import pytest
from torch import Tensor

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, Build, Tiny
from tests.support.plain_loop import Whole, loop
from vlm_heads import attach
from vlm_heads.errors import NothingIntervened, UnsupportedGeneration
from vlm_heads.families import examine
from vlm_heads.interventions.dense_head_copy import DenseHeadCopy


def _counts(call: Whole, threshold: float, mode: str) -> list[int]:
    """Return how many dense image columns each head has in the prompt."""
    weights = call.logits[:, : call.prompt, : call.prompt].softmax(-1)
    image = call.image.nonzero()[:, 0].tolist()
    end, counts = image[-1] + 1, []
    for head in weights:
        dense = 0
        for number, column in enumerate(image):
            if mode == "code" and number == 0:
                continue
            received = sum(float(head[row, column]) for row in range(call.prompt) if row != column)
            divisor = end - column if mode == "paper" else end - (number - 1)
            dense += received / divisor > threshold
        counts.append(dense)
    return counts


# between the heads' densities on these models
THRESHOLDS = {"paper": 0.2845, "code": 0.0945}


@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_equals_a_plain_loop(backend: str, mode: str, model: Tiny) -> None:
    chosen: dict[int, int | None] = {}

    def rule(call: Whole) -> Tensor:
        counts, weights = _counts(call, THRESHOLDS[mode], mode), call.logits.softmax(-1)
        head = counts.index(max(counts))
        copied = max(counts) > 0 and not (mode == "code" and head == 0)
        chosen[call.layer] = head if copied else None
        if copied:
            weights[:, : call.prompt] = weights[head, : call.prompt].clone()
        return weights @ call.value

    expected = loop(model, rule)
    assert len(set(chosen.values())) > 1
    made = DenseHeadCopy(threshold=THRESHOLDS[mode], mode=mode, layers="all")
    with attach(model.model, [made], backend=backend):
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert not equal(got.logits[0], model.generate().logits[0])


def test_layers_and_thresholds_are_those_of_the_mode(tiny: Build) -> None:
    anatomy = examine(tiny("llava").model)
    assert DenseHeadCopy().layers_in(anatomy) == {1}
    assert DenseHeadCopy(mode="code").layers_in(anatomy) == {0, 1, 2}


def test_nothing_is_copied_where_no_column_is_dense(model: Tiny) -> None:
    with pytest.raises(NothingIntervened), attach(model.model, [DenseHeadCopy(threshold=100.0)]):
        model.generate()


def test_a_generation_without_a_cache_is_refused(model: Tiny) -> None:
    with (
        attach(model.model, [DenseHeadCopy()], allow_idle=True),
        pytest.raises(UnsupportedGeneration, match="use_cache=True"),
    ):
        model.generate(use_cache=False)
