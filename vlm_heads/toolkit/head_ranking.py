"""Heads in the order of a score, as a file: AllPath's list format, one head a line, and the heads at either end.

    [[27, 29], -0.08212109250870324]
    [[26, 2], -0.053571144340193666]

A line is `[[layer, head], score]`, zero-based; the lowest score stands first.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from vlm_heads.errors import BadProfile
from vlm_heads.stored import write_whole
from vlm_heads.toolkit.options import LARGEST_INDEX

Ranked = tuple[tuple[int, int, float], ...]
Heads = tuple[tuple[int, int], ...]


def read_ranking(path: str | os.PathLike[str]) -> Ranked:
    """Return the (layer, head, score) of a list, in the file's order.

    Raises:
        BadProfile: if the file is not there, or a line is no head with a score, or the order is not ascending.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as failure:
        raise BadProfile(f"the list of heads {os.fspath(path)} cannot be read: {failure}") from failure
    found = [_head(line, f"{os.fspath(path)}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise BadProfile(f"the list of heads {os.fspath(path)} is empty; a line is [[layer, head], score]")
    if len({head[:2] for head in found}) < len(found):
        raise BadProfile(f"the list of heads {os.fspath(path)} names a head twice")
    if any(one[2] > other[2] for one, other in pairwise(found)):
        raise BadProfile(f"the list of heads {os.fspath(path)} is not sorted; the lowest score has to stand first")
    return tuple(found)


def write_ranking(scores: Tensor, path: str | os.PathLike[str]) -> None:
    """Write scores `[L, Hq]` as a list; heads of one score stand in the order of their layers."""
    lines = [json.dumps([[layer, head], score]) for layer, head, score in ranked(scores)]
    write_whole(Path(path), ("\n".join(lines) + "\n").encode())


def ranked(scores: Tensor) -> Ranked:
    """Return (layer, head, score) of scores `[L, Hq]`, the lowest first; equal ones in the order of their layers."""
    heads, values = scores.shape[1], scores.flatten().double()
    order = values.argsort(stable=True).tolist()
    return tuple((index // heads, index % heads, float(values[index])) for index in order)


def scores_of(ranking: Ranked) -> Tensor:
    """Return float32 `[L, Hq]`: the scores of a list that names every head up to its largest layer and head.

    Raises:
        BadProfile: if a head is missing.
    """
    depth, heads = 1 + max(layer for layer, _, _ in ranking), 1 + max(head for _, head, _ in ranking)
    if len(ranking) < depth * heads:
        raise BadProfile(f"the list names {len(ranking)} of {depth * heads} heads; one with all heads is needed")
    scores = torch.zeros(depth, heads)
    for layer, head, score in ranking:
        scores[layer, head] = score
    return scores


def lowest(ranking: Ranked, count: int) -> Heads:
    """Return the `count` heads of the lowest scores."""
    return tuple((layer, head) for layer, head, _ in ranking[:count])


def highest(ranking: Ranked, count: int) -> Heads:
    """Return the `count` heads of the highest scores."""
    return tuple((layer, head) for layer, head, _ in ranking[max(0, len(ranking) - count) :])


def _head(line: str, where: str) -> tuple[int, int, float]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    match value:
        case [[int(layer), int(head)], int() | float() as score] if _indices(layer, head) and math.isfinite(score):
            return layer, head, float(score)
    raise BadProfile(f"{where}: [[layer, head], score] is needed, and {line[:60]!r} stands there")


def _indices(*numbers: int) -> bool:
    return all(not isinstance(one, bool) and 0 <= one <= LARGEST_INDEX for one in numbers)


def union(*lists: Sequence[tuple[int, int]]) -> Heads:
    """Return the heads of several lists, each once, in the order of their first mention."""
    return tuple(dict.fromkeys(head for one in lists for head in one))
