"""The factor on logits: the specification by hand, the PyTorch backend against it, and what it composes with."""

import pytest
import torch
from vlm_kernels import AttentionPlan, attend

from tests.support.compare import distance, equal, rounding

SIZE = 8
CLOSE = rounding(torch.float32, terms=SIZE, size=2.0)


def _call(rows: int, keys: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 4, rows, SIZE, generator=generator)
    key, value = torch.randn(2, 2, 2, keys, SIZE, generator=generator)
    return {"query": query, "key": key, "value": value, "key_class": torch.zeros(2, keys, dtype=torch.int8)}


def test_the_specification_by_hand() -> None:
    # one row, two keys, scale 1: logits 2 and -1 times (1.5, 2) are 3 and -2, boosted by 0.5 * |-2| on the second: -1
    query, key = torch.tensor([[[[1.0]]]]), torch.tensor([[[[2.0], [-1.0]]]])
    plan = AttentionPlan(logit_factor=torch.tensor([[[1.5, 2.0]]]), logit_boost=torch.tensor([[[0.0, 0.5]]]))
    output, _ = attend(query, key, torch.tensor([[[[1.0], [0.0]]]]), plan=plan, scale=1.0, backend="reference")
    assert output.item() == pytest.approx(torch.tensor([3.0, -1.0]).softmax(0)[0].item())


@pytest.mark.parametrize("rows", [1, 5])
def test_the_backend_agrees_with_the_specification(rows: int) -> None:
    call = _call(rows, 5)
    plan = AttentionPlan(
        logit_factor=torch.rand(2, 4, 5) * 2,
        logit_boost=torch.rand(2, 1, 5),
        rows=torch.tensor([0, rows - 1]),
        head_gain=torch.rand(2, 4),
    )
    expected, _ = attend(**call, plan=plan, backend="reference")
    got, _ = attend(**call, plan=plan, backend="torch")
    assert distance(expected, got) < CLOSE
    boost_alone = AttentionPlan(logit_boost=plan.logit_boost, rows=plan.rows, head_gain=plan.head_gain)
    without, _ = attend(**call, plan=boost_alone, backend="torch")
    assert distance(without, got) > 1e-3


def test_rows_before_the_first_are_stock_attention() -> None:
    call = _call(5, 5)
    plan = AttentionPlan(logit_factor=torch.full((1, 1, 5), 3.0), rows=torch.tensor([3, 4]))
    got, _ = attend(**call, plan=plan, backend="torch")
    plain, _ = attend(**call, plan=AttentionPlan(), backend="torch")
    assert distance(got[0, :, :3], plain[0, :, :3]) < CLOSE
    assert distance(got[1, :, :4], plain[1, :, :4]) < CLOSE
    assert distance(got[:, :, 4], plain[:, :, 4]) > 1e-3


def test_two_factors_multiply() -> None:
    factor = torch.rand(1, 1, 5)
    both = AttentionPlan(logit_factor=factor) | AttentionPlan(logit_factor=factor)
    assert both.logit_factor is not None
    assert equal(both.logit_factor, factor * factor)


def test_an_unused_cache_is_cut_off() -> None:
    call = _call(3, 5)
    plan = AttentionPlan(logit_factor=torch.rand(1, 1, 5))
    expected, _ = attend(**call, plan=plan, backend="reference")
    got, _ = attend(**call, plan=plan, backend="torch")
    assert distance(expected, got) < CLOSE
