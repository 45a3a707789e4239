"""SPARC against a plain loop without a cache, in float64."""

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance, equal
from tests.support.families import CLOSE, Build, Tiny
from tests.support.plain_loop import Whole, loop
from vlm_heads import attach
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.families import examine
from vlm_heads.interventions.progressive_value_gain import ProgressiveValueGain

READ = 2  # 20 / 32 of three layers


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("threshold", [-0.112, -1.0])  # attention thins out as keys are added: some rise, or all
def test_equals_a_plain_loop(threshold: float, backend: str, model: Tiny) -> None:
    attended: dict[int, Tensor] = {}  # by row, as the reading layer of the forward before left it
    selected: list[int] = []

    def gain(call: Whole, row: int) -> Tensor:
        found, mean = torch.ones(len(call.image), dtype=torch.float64), attended[call.prompt - 1]
        for before in range(call.prompt, row):
            rose = call.image.clone()
            rose[call.image] = attended[before] >= (1 + threshold) * mean
            selected.append(int(rose.sum()))
            found[rose] *= 1.7
            mean = 0.6 * attended[before] + 0.4 * mean
        return found

    def rule(call: Whole) -> Tensor:
        weights = call.logits.softmax(-1)
        if call.layer == READ:
            attended.update(
                {row: weights[:, row, call.image].mean(0) for row in range(call.prompt - 1, weights.shape[1])}
            )
        for row, _ in call.steps:
            weights[:, row] *= gain(call, row)
        return weights @ call.value

    expected = loop(model, rule, steps=6)
    assert any(0 < count < 4 for count in selected) or threshold == -1.0
    made = ProgressiveValueGain(gain=1.7, threshold=threshold, memory=0.4)
    with attach(model.model, [made], backend=backend):
        got = model.generate(steps=6)
    assert distance(expected, got) < CLOSE
    plainly = model.generate(steps=6)
    assert equal(got.logits[1], plainly.logits[1])
    assert not equal(got.logits[2], plainly.logits[2])


def test_the_reading_layer_reads_where_it_does_not_act(model: Tiny) -> None:
    made = ProgressiveValueGain(gain=1.7, threshold=-1.0, layers=0)
    assert made.layers_in(examine(model.model)) == {0, READ}
    with attach(model.model, [made]):
        got = model.generate(steps=6)
    with attach(model.model, [ProgressiveValueGain(gain=1.7, threshold=-1.0)]):
        assert not equal(got.logits[2], model.generate(steps=6).logits[2])
    assert not equal(got.logits[2], model.generate(steps=6).logits[2])


def test_the_reading_layer_keeps_its_proportion(tiny: Build) -> None:
    made = ProgressiveValueGain(layers=0)
    assert made.layers_in(examine(tiny("llava", num_hidden_layers=32).model)) == {0, 20}


def test_beams_are_refused(model: Tiny) -> None:
    with (
        attach(model.model, [ProgressiveValueGain()], allow_idle=True),
        pytest.raises(UnsupportedGeneration, match="num_beams"),
    ):
        model.generate(num_beams=2)
