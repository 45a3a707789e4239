"""The one spelling of "the same" and "how far apart", for tensors and for what `generate` returns."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Generated(Protocol):
    """What `generate` returns with `return_dict_in_generate` and `output_logits`.

    Attributes:
        sequences: token ids `[B, T]`, prompt and answer.
        logits: token logits `[B, V]` of each generated token.
    """

    sequences: Tensor
    logits: tuple[Tensor, ...]


Comparable = Tensor | Sequence[Tensor] | Generated


def same_ids(left: Tensor | Generated, right: Tensor | Generated) -> bool:
    """Return whether both are the same token ids, as many in each row."""
    one, other = (given if isinstance(given, Tensor) else given.sequences for given in (left, right))
    return torch.equal(one, other)


def equal(left: Comparable, right: Comparable) -> bool:
    """Return whether all values are equal with no tolerance; of generations, the token ids and all token logits.

    Tensors of different shape are not equal, nor is not-a-number equal to itself.

    Raises:
        ValueError: if one holds more tensors than the other.
    """
    pairs = zip([*_ids(left), *_values(left)], [*_ids(right), *_values(right)], strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def distance(left: Comparable, right: Comparable) -> float:
    """Return the largest difference of two values in the same place; of generations, of their token logits.

    Equal infinities differ by 0. A not-a-number on either side makes the distance not-a-number, below no bound.

    Raises:
        AssertionError: if shapes, dtypes or the token ids of generations differ.
        ValueError: if one holds more tensors than the other.
    """
    for one, other in zip(_ids(left), _ids(right), strict=True):
        assert torch.equal(one, other), "the token ids differ"
    apart = [_difference(one, other) for one, other in zip(_values(left), _values(right), strict=True)]
    return torch.stack(apart).max().item()  # Python's own `max` may pass over a not-a-number


def rounding(dtype: torch.dtype, terms: int, size: float = 1.0) -> float:
    """Return how far apart two right ways to compute a value may end.

    Each addition rounds by at most half of eps times the size, in either way.

    Args:
        dtype: the least precise type on the way.
        terms: how many numbers the longest sum on the way adds up.
        size: how large values become on the way.
    """
    return terms * size * torch.finfo(dtype).eps


def _ids(given: Comparable) -> Sequence[Tensor]:
    return [] if isinstance(given, Tensor | Sequence) else [given.sequences]


def _values(given: Comparable) -> Sequence[Tensor]:
    if isinstance(given, Tensor):
        return [given]
    return given if isinstance(given, Sequence) else given.logits


def _difference(left: Tensor, right: Tensor) -> Tensor:
    assert left.shape == right.shape, f"shapes {tuple(left.shape)} and {tuple(right.shape)} differ"
    assert left.dtype == right.dtype, f"{left.dtype} and {right.dtype} differ"
    one, other = left.detach().double(), right.detach().double()
    return (one - other).abs().masked_fill(one == other, 0.0).max()
