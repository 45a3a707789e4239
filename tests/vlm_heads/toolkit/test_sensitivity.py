"""VHD, its filter and the choice of heads, each on numbers small enough to do by hand."""

import pytest
import torch

from tests.support.compare import equal
from vlm_heads.toolkit import sensitivity as s


def test_vhd_is_the_euclidean_distance_of_a_heads_outputs() -> None:
    sighted = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    blind = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    # head 0: sqrt(9 + 16) = 5; head 1: sqrt(0 + 1) = 1
    assert s.vision_awareness(sighted, blind).tolist() == [5.0, 1.0]
    assert s.surge(torch.tensor([[3.0, 4.0]])).tolist() == [5.0]
    assert s.surge(torch.tensor([[3.0, 4.0]]), squared=True).tolist() == [25.0]


def test_half_precision_is_compared_in_single() -> None:
    sighted = torch.full((1, 4), 256.0, dtype=torch.float16)
    assert s.vision_awareness(sighted, torch.zeros_like(sighted)).item() == 512.0  # the square overflows in half


def test_heads_above_the_lower_median() -> None:
    # sorted 1 2 4 8; the lower median is 2, so 4 and 8 lie strictly above
    assert s.above_median(torch.tensor([4.0, 1.0, 8.0, 2.0])).tolist() == [True, False, True, False]
    # sorted 1 2 4; the median is 2
    assert s.above_median(torch.tensor([4.0, 1.0, 2.0])).tolist() == [True, False, False]
    assert not s.above_median(torch.zeros(4)).any()


def test_the_filter_needs_both_to_stand_out() -> None:
    awareness = torch.tensor([9.0, 1.0, 1.0, 1.0])  # mean 3, unbiased std 4: only the first is above 7
    surging = torch.tensor([8.0, 0.0, 0.0, 0.0])  # mean 2, std 4: only the first is above 6
    steady = torch.tensor([0.0, 8.0, 0.0, 0.0])
    assert s.without_outliers(awareness, surging).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert equal(s.without_outliers(awareness, steady), awareness)


def test_biased_and_unbiased_deviation_decide_differently() -> None:
    # mean 1, squares sum to 12: std 2 unbiased (12 / 3) and sqrt(3) biased (12 / 4); 4 - 1 = 3
    values = torch.tensor([4.0, 0.0, 0.0, 0.0])
    near = torch.tensor([2.85, 0.0, 0.0, 1.15])  # mean 1, std 1.349 unbiased, 1.168 biased: 1.85 above in both
    assert s.without_outliers(values, near)[0] == 0.0
    # mean 1, std 1.155 unbiased and 1 biased: 2 - 1 = 1 is above neither 1.155 nor, strictly, 1
    split = torch.tensor([2.0, 2.0, 0.0, 0.0])
    assert equal(s.without_outliers(split, split), split)
    # mean 0.8, biased std sqrt(0.96) = 0.980, unbiased 1.095: 2 is 1.2 above; 1.8 is 1.0 above, between the two
    between = torch.tensor([1.8, 2.2, 0.0, 0.0, 0.0])
    deviations = [between.std(correction=correction).item() for correction in (1, 0)]
    assert deviations[1] < 1.0 < deviations[0]
    assert s.without_outliers(between, between)[0] == pytest.approx(1.8)
    assert s.without_outliers(between, between, unbiased=False)[0] == 0.0


def test_one_head_has_no_deviation() -> None:
    assert s.without_outliers(torch.tensor([3.0]), torch.tensor([3.0])).tolist() == [3.0]


def test_the_least_aware_are_as_many_and_differ_by_row() -> None:
    awareness = torch.tensor([[4.0, 1.0, 8.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    chosen = s.least_aware(awareness, torch.tensor([2, 1]))
    assert chosen.tolist() == [[False, True, False, True], [True, False, False, False]]


def test_random_heads_depend_on_seed_and_layer_and_not_on_the_row() -> None:
    like, count = torch.zeros(3, 16), torch.full((3,), 8)
    first = s.random_heads(like, count, seed=0, layer=1)
    assert equal(first, s.random_heads(like, count, seed=0, layer=1))
    assert not equal(first, s.random_heads(like, count, seed=1, layer=1))
    assert not equal(first, s.random_heads(like, count, seed=0, layer=2))
    assert equal(first[0], first[2])
    assert first.sum(dim=1).tolist() == [8, 8, 8]


def test_t_vhd_sums_the_largest() -> None:
    assert s.token_awareness(torch.tensor([[1.0, 5.0, 3.0]]), top=2).tolist() == [8.0]
    assert s.token_awareness(torch.tensor([[1.0, 5.0, 3.0]]), top=9).tolist() == [9.0]


@pytest.mark.parametrize(("heads", "top"), [(32, 8), (64, 8), (16, 4), (8, 2), (2, 1)])
def test_default_number_of_heads_in_t_vhd(heads: int, top: int) -> None:
    assert s.default_top(heads) == top
