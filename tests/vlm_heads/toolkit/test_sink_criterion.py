"""What tells sinks from other tokens: a worked example of both criteria, and what padding must not do."""

import pytest
import torch
from torch import Tensor

from vlm_heads.toolkit.sink_criterion import SinkCriterion, lower_median, sink_strength, times_median

# Five tokens of width 4. Channel 0 is large at every token, and massive at the first.
#   token             |x[0]|   RMS                   phi = |x[0]| / RMS
#   (100, 0, 0, 0)      100    sqrt(10000 / 4) = 50   2      the most that a width of 4 allows
#   (  3, 4, 0, 0)        3    sqrt(25 / 4) = 2.5     1.2
#   ( -2, 0, 0, 0)        2    sqrt(4 / 4) = 1        2      as much, from a token that is nothing special
#   (  0, 8, 0, 0)        0    sqrt(64 / 4) = 4       0
#   (  6, 0, 0, 0)        6    sqrt(36 / 4) = 3       2
# What counts for the median is the larger of |x[0]| and RMS: 100, 3, 2, 4, 6. Their median is 4.
TOKENS = torch.tensor([[100.0, 0, 0, 0], [3, 4, 0, 0], [-2, 0, 0, 0], [0, 8, 0, 0], [6, 0, 0, 0]])[None]
NO_PADDING = torch.zeros(1, 5, dtype=torch.bool)


def test_phi_cannot_tell_a_token_whose_channel_is_large_everywhere() -> None:
    assert sink_strength(TOKENS, (0,))[0].tolist() == pytest.approx([2, 1.2, 2, 0, 2], rel=1e-5)
    assert SinkCriterion((0,), "phi", 1.9).sinks(TOKENS, NO_PADDING).tolist() == [[True, False, True, False, True]]


def test_the_median_token_tells_it() -> None:
    expected = [100 / 4, 3 / 4, 2 / 4, 0, 6 / 4]
    assert times_median(TOKENS, (0,), NO_PADDING)[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert SinkCriterion((0,), "median", 10.0).sinks(TOKENS, NO_PADDING).tolist() == [[True, *[False] * 4]]
    assert SinkCriterion((0,), "median", 25.0).sinks(TOKENS, NO_PADDING)[0, 0]  # it reaches the factor
    assert not SinkCriterion((0,), "median", 25.1).sinks(TOKENS, NO_PADDING).any()


def test_the_largest_of_several_channels_counts() -> None:
    # by channels 0 and 1: 100, 4, 2, 8, 6, median 6
    assert times_median(TOKENS, (0, 1), NO_PADDING)[0, 3].item() == pytest.approx(8 / 6)


def test_a_channel_that_is_nearly_zero_makes_no_sinks_of_noise() -> None:
    tokens = torch.tensor([[1e-5, 1.0], [1e-7, 1.0], [-1e-7, 1.0]])[None]
    assert not SinkCriterion((0,), "median", 2.0).sinks(tokens, torch.zeros(1, 3, dtype=torch.bool)).any()


def _left_padded(tokens: Tensor, count: int, value: float) -> tuple[Tensor, Tensor]:
    """Return a row with padding positions of a value before its tokens, and where they are."""
    states = torch.cat([torch.full((1, count, tokens.shape[2]), value), tokens], dim=1)
    return states, (torch.arange(states.shape[1]) < count)[None]


@pytest.mark.parametrize("value", [0.0, 1e4, torch.nan])
def test_padding_has_no_part_in_the_median(value: float) -> None:
    states, padding = _left_padded(TOKENS, 6, value)
    assert torch.equal(times_median(states, (0,), padding)[:, 6:], times_median(TOKENS, (0,), NO_PADDING))


def test_a_row_of_padding_has_no_sinks() -> None:
    everything = torch.ones(1, 5, dtype=torch.bool)
    assert not SinkCriterion((0,), "median", 1.0).sinks(TOKENS, everything).any()


def test_the_median_is_the_lower_of_the_middle_two() -> None:
    """As `torch.median` has it, which knows no padding."""
    values = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(lower_median(values, torch.zeros(3, 6, dtype=torch.bool))[:, 0], values.median(dim=1).values)


@pytest.mark.parametrize("kind", ["phi", "median"])
def test_without_channels_there_are_no_sinks(kind: str) -> None:
    assert not SinkCriterion((), kind, 0.0).sinks(TOKENS, NO_PADDING).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(dtype: torch.dtype) -> None:
    """A square of 300 is beyond float16."""
    states = torch.tensor([[300.0, 0.0], [1.0, 1.0], [2.0, 2.0]], dtype=dtype)[None]
    padding = torch.zeros(1, 3, dtype=torch.bool)
    # of 300, 1 and 2 the median is 2
    assert times_median(states, (0,), padding)[0].tolist() == pytest.approx([150, 0.5, 1], rel=1e-6)
