"""Connected regions of a map over a picture."""

from __future__ import annotations

import torch
from torch import Tensor


def label(mask: Tensor) -> tuple[Tensor, int]:
    """Return the regions of a mask that hang together by sides: int64 `[H, W]`, 0 outside and 1 to n inside, and n.

    Args:
        mask: bool `[H, W]`.
    """
    parents = [0]
    runs: list[tuple[int, int, int, int]] = []  # row, first column, column after the last, number
    above: list[tuple[int, int, int, int]] = []
    for row, line in enumerate(mask.cpu().int()):
        here: list[tuple[int, int, int, int]] = []
        edges = torch.diff(torch.nn.functional.pad(line, (1, 1)))
        starts, ends = ((edges == step).nonzero()[:, 0].tolist() for step in (1, -1))
        for start, end in zip(starts, ends, strict=True):
            touching = [_root(parents, one[3]) for one in above if one[1] < end and start < one[2]]
            number = min(touching, default=len(parents))
            if not touching:
                parents.append(number)
            for one in touching:
                parents[one] = number
            here.append((row, start, end, number))
        runs += here
        above = here
    roots = [_root(parents, one) for one in range(len(parents))]
    numbers = {root: at for at, root in enumerate(dict.fromkeys(roots[1:]), start=1)}
    labelled = torch.zeros(mask.shape, dtype=torch.int64)
    for row, start, end, number in runs:
        labelled[row, start:end] = numbers[roots[number]]
    return labelled, len(numbers)


def strongest(values: Tensor, share: float, least: int) -> Tensor:
    """Return bool `[H, W]`: the regions of the largest values that hold most in sum.

    Args:
        values: float64 `[H, W]`.
        share: of the pixels whose values are the largest, and of the regions that are kept.
        least: regions that are kept at least.
    """
    mask = values >= torch.quantile(values.flatten(), 1.0 - share)
    labelled, count = label(mask)
    sums = torch.zeros(count + 1, dtype=values.dtype).index_add_(0, labelled.flatten(), values.flatten())[1:]
    kept = sums.topk(min(count, max(least, int(count * share)))).indices + 1
    return torch.isin(labelled, kept)


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        number = parents[number]
    return number
