"""FarSight against a plain loop without a cache, in float64."""

import math

import pytest
import torch
from torch import Tensor

from tests.support.compare import distance
from tests.support.families import CLOSE, Tiny
from tests.support.plain_loop import Whole, loop
from vlm_heads import attach
from vlm_heads.interventions.attention_registers import AttentionRegisters


def _registers(heads: int, rows: int, decay: float, mode: str) -> Tensor:
    """Return the logits of registers `[Hq, T, T]` above the diagonal, `-inf` elsewhere."""
    found = torch.full((heads, rows, rows), -torch.inf, dtype=torch.float64)
    for head in range(heads):
        for row in range(rows):
            falls = decay
            if mode == "code":
                falls = 0.5 * decay + 0.5 * decay * (1 - 0.5 * row / max(rows - 1, 1)) + 2 ** (-8 * (head + 1) / heads)
            for later in range(row + 1, rows):
                found[head, row, later] = -falls * (later - row)
    return found


def _attended(call: Whole, registers: Tensor) -> Tensor:
    """Return attention with registers among the keys, which are dropped after softmax."""
    logits = torch.where(call.logits > -torch.inf, call.logits, registers)
    return logits.softmax(-1).tril() @ call.value


@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_with_a_cache_rows_keep_the_registers_of_their_own_forward(backend: str, mode: str, model: Tiny) -> None:
    def rule(call: Whole) -> Tensor:
        heads, rows = call.logits.shape[:2]
        registers = torch.full((heads, rows, rows), -torch.inf, dtype=torch.float64)
        registers[:, : call.prompt, : call.prompt] = _registers(heads, call.prompt, 0.5, mode)
        return _attended(call, registers)

    expected = loop(model, rule)
    made = AttentionRegisters(decay=0.5, mode=mode)
    with attach(model.model, [made], backend=backend) as run:
        got = model.generate()
    assert distance(expected, got) < CLOSE
    assert distance(got.logits[0], model.generate().logits[0]) > 1e-4
    assert run.receipt.interventions[0].layers == (0, 1, 2)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_without_a_cache_all_rows_have_the_registers_of_the_whole_sequence(mode: str, model: Tiny) -> None:
    def rule(call: Whole) -> Tensor:
        return _attended(call, _registers(*call.logits.shape[:2], 0.5, mode))

    expected = loop(model, rule)
    with attach(model.model, [AttentionRegisters(decay=0.5, mode=mode)]):
        assert distance(expected, model.generate(use_cache=False)) < CLOSE


def test_the_decay_is_the_programs_number() -> None:
    assert AttentionRegisters().decay == pytest.approx(math.log(256) / math.log(1024))
