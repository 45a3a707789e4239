"""What to change in one attention call, as data: `AttentionPlan`, `Redistribution` and the key classes they speak of.

The order on one layer is fixed: head source, mask, factor, boost, key weight, softmax with the empty key,
redistribution and class gain, value gain, value sum, head gain.
Nothing here computes attention; `reference.py` says in plain PyTorch what every field means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

import torch
from torch import Tensor

MAX_CLASSES = 8
PER_KEY = ("logit_boost", "logit_factor", "key_weight", "value_gain")  # fields of a plan that end in the keys

Only = TypeVar("Only")
_DIMENSIONS = {"head_gain": 2, "class_gain": 3, "empty_key": 3, **dict.fromkeys(PER_KEY, 3)}


class KeyClass(IntEnum):
    """What a key is. Values are stored as int8 `[B, Tk]`; any value below zero is padding."""

    PADDING = -1
    TEXT = 0
    TEXT_SINK = 1
    IMAGE_SINK = 2
    IMAGE = 3
    GENERATED = 4


CLASS_COUNT = len(KeyClass) - 1


@dataclass(frozen=True, eq=False)
class Redistribution:
    """Sinks hand a share of their weight to the image keys of the same row (VAR, Kang et al. 2025, section 4).

    On a selected head and row, text sinks and image sinks keep `1 - moved` of their weight. The freed weight goes to
    the image keys that are no sinks, in proportion to their weight. The row sum is unchanged. A row is left alone where
    those image keys hold no weight at all.

    Attributes:
        moved: share of every sink's weight that is handed on, 0..1. 0 is neutral.
        max_sink_share: a row is selected only where image sinks hold at most this share of its image mass, 0..1.
        min_image_mass: a row is selected only where its image keys (sinks included) hold at least this mass, 0..1.
        heads: bool `[B, Hq]`, the heads that may be selected; None means all.
        rows: int64 `[B]`, the first query row of this call that may be selected; None means all. Kept on the CPU it
            tells how many rows are edited without waiting for a device.
        strict: compare with `<` and `>` instead of `<=` and `>=`.
        share_epsilon: added to the image mass once per image key of the batch row before the sink share is taken, so
            that it becomes `m_2 / (m_2 + m_3 + epsilon * image keys)`; the authors' program has 1e-6.

    Raises:
        ValueError: if a number is out of its range or a tensor has another shape or dtype than written here.
    """

    moved: float = 0.6
    max_sink_share: float = 0.5
    min_image_mass: float = 0.2
    heads: Tensor | None = None
    rows: Tensor | None = None
    strict: bool = False
    share_epsilon: float = 0.0

    def __post_init__(self) -> None:
        for name in ("moved", "max_sink_share", "min_image_mass", "share_epsilon"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"Redistribution.{name} is a share and must lie in 0..1, but {value!r} was given")
        if self.heads is not None and (self.heads.dim() != 2 or self.heads.dtype is not torch.bool):
            raise ValueError(f"Redistribution.heads must be bool [B, Hq], but {_described(self.heads)} was given")
        _check_rows(self.rows, "Redistribution.rows")


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """One edit of one attention call. An empty plan is plain attention.

    Attributes:
        head_gain: float `[B, Hq]`, multiplies each head's output on every row.
        class_gain: float `[B, Hq, classes]`, multiplies each key class's contribution to the output on the plan's
            rows, without renormalising. Classes beyond its last column have gain 1; at most `MAX_CLASSES` columns.
        redistribution: weight moved after softmax; it carries its own rows.
        logit_boost: float `[B or 1, Hq or 1, Tk]`, logits `z` become `z + boost * |z|` on the plan's rows.
        rows: int64 `[B]`, the first query row of this call on which the fields that name the plan's rows act; None
            means all. Head gain and head source act on every row whatever it says. Kept on the CPU it tells how many
            rows are edited without waiting for a device.
        logit_factor: float `[B or 1, Hq or 1, Tk]`, multiplies logits before the boost on the plan's rows.
        key_weight: float `[B or 1, Hq or 1, Tk]`, 0 or more: how many times each key counts in softmax on the plan's
            rows. Weights `e^z` become `key_weight * e^z`, and a row still sums to 1; 0 drops the key.
        value_gain: float `[B or 1, Hq or 1, Tk]`, multiplies each key's value on the plan's rows; weights stay.
        empty_key: float `[B or 1, Hq or 1, Tq or 1]`, 0 or more, added to the denominator of softmax on the plan's
            rows: a key of weight `empty_key` beside the others' `e^z`, which takes its share and adds nothing.
        head_source: int64 `[B or 1, Hq]`, the head whose logits each head attends with; its values stay its own.

    Raises:
        ValueError: if a tensor has another shape or dtype than written here.
    """

    head_gain: Tensor | None = None
    class_gain: Tensor | None = None
    redistribution: Redistribution | None = None
    logit_boost: Tensor | None = None
    rows: Tensor | None = None
    logit_factor: Tensor | None = None
    key_weight: Tensor | None = None
    value_gain: Tensor | None = None
    empty_key: Tensor | None = None
    head_source: Tensor | None = None

    def __post_init__(self) -> None:
        for name, dims in _DIMENSIONS.items():
            value = getattr(self, name)
            if value is not None and (value.dim() != dims or not value.is_floating_point()):
                raise ValueError(
                    f"AttentionPlan.{name} must be floating point with {dims} dimensions, not {_described(value)}"
                )
        if self.class_gain is not None and self.class_gain.shape[-1] > MAX_CLASSES:
            raise ValueError(
                f"AttentionPlan.class_gain has {self.class_gain.shape[-1]} classes; {MAX_CLASSES} is the most"
            )
        if self.head_source is not None and (self.head_source.dim() != 2 or self.head_source.dtype is not torch.int64):
            raise ValueError(
                "AttentionPlan.head_source must be int64 [B or 1, Hq], the head that each head takes its logits from, "
                f"not {_described(self.head_source)}"
            )
        _check_rows(self.rows, "AttentionPlan.rows")

    @property
    def edits_weights(self) -> bool:
        """Whether more than a head gain is asked for, so that key classes or logits are needed."""
        return self.uses_rows or self.moves_weight or self.head_source is not None

    @property
    def moves_weight(self) -> bool:
        """Whether there is a redistribution that moves anything at all."""
        return self.redistribution is not None and self.redistribution.moved > 0.0

    @property
    def uses_rows(self) -> bool:
        """Whether anything in the plan is governed by `rows`."""
        return self.class_gain is not None or self.empty_key is not None or self.changes_keys

    @property
    def changes_keys(self) -> bool:
        """Whether anything is stated key by key."""
        changed = self.logit_boost is not None or self.logit_factor is not None
        return changed or self.key_weight is not None or self.value_gain is not None

    @property
    def classes(self) -> int:
        """How many key classes are told apart: five, or more where the class gain names more."""
        return max(CLASS_COUNT, self.class_gain.shape[-1]) if self.class_gain is not None else CLASS_COUNT

    def __or__(self, other: AttentionPlan) -> AttentionPlan:
        """Return both edits as one: gains, factors and key weights multiply, boosts and empty keys add.

        Raises:
            ValueError: if both plans redistribute or both name head sources, or if both use rows, but different ones.
        """
        if not isinstance(other, AttentionPlan):
            return NotImplemented
        return replace(
            self,
            head_gain=_merge(self.head_gain, other.head_gain, torch.mul),
            class_gain=_merge(self.class_gain, other.class_gain, _multiply_classes),
            redistribution=_one_of(self.redistribution, other.redistribution, "redistribute weight"),
            logit_boost=_merge(self.logit_boost, other.logit_boost, torch.add),
            rows=_common_rows(self, other),
            logit_factor=_merge(self.logit_factor, other.logit_factor, torch.mul),
            key_weight=_merge(self.key_weight, other.key_weight, torch.mul),
            value_gain=_merge(self.value_gain, other.value_gain, torch.mul),
            empty_key=_merge(self.empty_key, other.empty_key, torch.add),
            head_source=_one_of(self.head_source, other.head_source, "let heads attend as another head does"),
        )


@dataclass(frozen=True, eq=False)
class Aux:
    """What `attend` saw on the way, each only where it was asked for.

    Mass is float32, or float64 where the query is.

    Attributes:
        mass: `[B, Hq, Tq, classes]`, softmax mass of every key class after the boost and before anything is
            redistributed; a row sums to 1, less what an empty key takes, or to 0 where the whole row is masked.
        blinded: `[B, Hq, Tq, D]` in the dtype of the query: the output had the image keys (classes 2 and 3) and the
            empty key not been there, without any gain but that of values; 0 where a row sees nothing but image.
        moved: `[B, Hq, Tq]`, the mass that the redistribution took from the sinks of that row.
    """

    mass: Tensor | None = None
    blinded: Tensor | None = None
    moved: Tensor | None = None


def _check_rows(rows: Tensor | None, name: str) -> None:
    if rows is not None and (rows.dim() != 1 or rows.dtype is not torch.int64):
        raise ValueError(f"{name} must be int64 [B], the first edited row of each batch row, not {_described(rows)}")


def _described(value: Tensor) -> str:
    return f"{value.dtype} {list(value.shape)}"


def _merge(left: Tensor | None, right: Tensor | None, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return combine(left, right)


def _multiply_classes(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of two class gains; the one with fewer classes is filled up with ones."""
    classes = max(left.shape[-1], right.shape[-1])
    filled = [torch.nn.functional.pad(gain, (0, classes - gain.shape[-1]), value=1.0) for gain in (left, right)]
    return filled[0] * filled[1]


def _one_of(left: Only | None, right: Only | None, what: str) -> Only | None:
    if left is not None and right is not None and left is not right:
        raise ValueError(f"two plans for one layer both {what}; attach one method only that does")
    return right if left is None else left


def _common_rows(left: AttentionPlan, right: AttentionPlan) -> Tensor | None:
    if not (left.uses_rows and right.uses_rows):
        return left.rows if left.uses_rows else right.rows
    same = left.rows is right.rows
    if not same and left.rows is not None and right.rows is not None:
        same = torch.equal(left.rows, right.rows.to(left.rows.device))
    if not same:
        raise ValueError(
            "two plans for one layer change logits, keys or classes on different rows; give both the same rows"
        )
    return left.rows
