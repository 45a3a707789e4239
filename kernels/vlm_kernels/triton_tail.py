# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The edited rows of a prefill: those after the image, few beside the rows that stock attention computes.

Masses are known only when a row is finished, so each block goes over the keys twice: first for the sums of every
class, without values, then for the output with each class's factor in place. Query heads of a group are rows of the
same block and share its keys and values. The algebra is that of `reference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlm_kernels import triton_launch as launch
from vlm_kernels.triton_epilogue import rule_factors


@triton.jit
def _tile(
    q,  # [ROWS, PADDED]
    key_base,
    key_row,
    key_class,  # of this batch row
    mask,  # of this batch row
    boost,  # of this batch row
    factor,  # of this batch row
    start,
    keys,
    row,  # [ROWS], number of the query row
    head,  # [ROWS]
    valid,  # [ROWS]
    planned,  # [ROWS], whether factor and boost act
    mask_head,
    mask_row,
    boost_head,
    factor_head,
    scale,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr,
    HAS_CLASSES: tl.constexpr,
    HAS_BOOST: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
):
    """Return the logits `[ROWS, BLOCK]` of one block of keys in units of log2, hidden ones -inf, and key classes."""
    number = start + tl.arange(0, BLOCK)
    here = number < keys
    column = tl.arange(0, PADDED)
    k = tl.load(  # [PADDED, BLOCK]
        key_base + number[None, :] * key_row + column[:, None],
        mask=here[None, :] & (column[:, None] < SIZE),
        other=0.0,
    )
    logits = tl.dot(q, k, input_precision="ieee") * scale
    acting = planned[:, None] & here[None, :]
    if HAS_FACTOR:
        times = tl.load(factor + head[:, None] * factor_head + number[None, :], mask=acting, other=1.0)
        logits *= times.to(tl.float32)
    if HAS_BOOST:
        strength = tl.load(boost + head[:, None] * boost_head + number[None, :], mask=acting, other=0.0)
        logits += strength.to(tl.float32) * tl.abs(logits)
    kind = tl.load(key_class + number, mask=here, other=-1) if HAS_CLASSES else tl.where(here, 0, -1)
    seen = (kind >= 0)[None, :] & valid[:, None]
    if MASK == 0:
        seen = seen & (number[None, :] <= row[:, None])
    else:
        added = tl.load(
            mask + head[:, None] * mask_head + row[:, None] * mask_row + number[None, :],
            mask=valid[:, None] & here[None, :],
            other=0,
        )
        if MASK == 1:
            seen = seen & (added != 0)
        else:
            logits += added.to(tl.float32) * 1.4426950408889634
    return tl.where(seen, logits, float("-inf")), kind


@triton.jit(
    do_not_specialize=[
        "first", "rows", "keys", "mask_batch", "mask_head", "mask_row",
        "boost_batch", "boost_head", "factor_batch", "factor_head", "class_batch",
    ]
)  # fmt: skip
def tail_kernel(
    query,
    key,
    value,
    key_class,
    mask,
    boost,
    factor,
    head_gain,
    class_gain,
    rule_heads,
    rule_rows,
    plan_rows,
    extra_mass,
    output,
    mass_out,
    blinded_out,
    moved_out,
    first,  # first edited row
    rows,  # all rows of the query
    heads,
    kv_heads,
    keys,
    query_batch,
    query_head,
    query_row,
    key_batch,
    key_head,
    key_row,
    value_batch,
    value_head,
    value_row,
    mask_batch,
    mask_head,
    mask_row,
    boost_batch,
    boost_head,
    factor_batch,
    factor_head,
    class_batch,
    scale,  # times log2(e)
    moved,
    max_sink_share,
    min_image_mass,
    mass_classes,
    gain_classes,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASK: tl.constexpr,
    HAS_CLASSES: tl.constexpr,
    HAS_BOOST: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    MOVES: tl.constexpr,
    STRICT: tl.constexpr,
    HAS_EXTRA: tl.constexpr,
    HAS_HEAD_GAIN: tl.constexpr,
    HAS_CLASS_GAIN: tl.constexpr,
    HAS_RULE_HEADS: tl.constexpr,
    HAS_RULE_ROWS: tl.constexpr,
    HAS_PLAN_ROWS: tl.constexpr,
    WANT_MASS: tl.constexpr,
    WANT_BLINDED: tl.constexpr,
    WANT_MOVED: tl.constexpr,
) -> None:
    """Attend the rows from `first` on; grid (blocks of row-and-head pairs, batch rows x key heads)."""
    kv_head = tl.program_id(1) % kv_heads
    batch = (tl.program_id(1) // kv_heads).to(tl.int64)
    pair = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = first + pair // GROUP
    head = kv_head * GROUP + pair % GROUP
    valid = row < rows
    column = tl.arange(0, PADDED)
    filled = valid[:, None] & (column[None, :] < SIZE)
    q = tl.load(  # [ROWS, PADDED]
        query + batch * query_batch + head[:, None] * query_head + row[:, None] * query_row + column[None, :],
        mask=filled,
        other=0.0,
    )
    planned = valid
    if HAS_PLAN_ROWS:
        planned = planned & (row >= tl.load(plan_rows + batch))
    key_base = key + batch * key_batch + kv_head * key_head
    value_base = value + batch * value_batch + kv_head * value_head
    class_base = key_class + batch * class_batch
    mask_base = mask + batch * mask_batch
    boost_base = boost + batch * boost_batch
    factor_base = factor + batch * factor_batch
    stop = keys
    if MASK == 0:
        stop = tl.minimum(keys, first + (tl.program_id(0) * ROWS + ROWS - 1) // GROUP + 1)

    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    classes = tl.arange(0, 8)[None, :]
    sums = tl.zeros((ROWS, 8), tl.float32)
    for start in range(0, stop, BLOCK):
        logits, kind = _tile(
            q, key_base, key_row, class_base, mask_base, boost_base, factor_base, start, keys, row, head, valid,
            planned, mask_head, mask_row, boost_head, factor_head, scale, SIZE, PADDED, BLOCK, MASK, HAS_CLASSES,
            HAS_BOOST, HAS_FACTOR,
        )  # fmt: skip
        new_top = tl.maximum(top, tl.max(logits, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(logits - base[:, None])
        rescale = tl.exp2(top - base)
        total = total * rescale + tl.sum(weights, 1)
        sums = sums * rescale[:, None]
        if WANT_MASS:
            for number in tl.static_range(8):
                part = tl.sum(tl.where(kind[None, :] == number, weights, 0.0), 1)
                sums += tl.where(classes == number, part[:, None], 0.0)
        elif MOVES:
            for number in tl.static_range(1, 4):
                part = tl.sum(tl.where(kind[None, :] == number, weights, 0.0), 1)
                sums += tl.where(classes == number, part[:, None], 0.0)
        top = new_top

    highest = tl.where(top == float("-inf"), 0.0, top)
    inverse = 1.0 / tl.where(total > 0.0, total, 1.0)
    place = batch * heads + head
    factors = tl.full((ROWS, 8), 1.0, tl.float32)
    if MOVES:
        allowed_rows = valid
        if HAS_RULE_HEADS:
            allowed_rows = allowed_rows & (tl.load(rule_heads + place, mask=valid, other=0) != 0)
        if HAS_RULE_ROWS:
            allowed_rows = allowed_rows & (row >= tl.load(rule_rows + batch))
        extra = 0.0
        if HAS_EXTRA:
            extra = tl.load(extra_mass + batch)
        factors, handed = rule_factors(
            sums * inverse[:, None], classes, allowed_rows, extra, moved, max_sink_share, min_image_mass, STRICT
        )
        if WANT_MOVED:
            tl.store(moved_out + place * rows + row, handed, mask=valid)
    if HAS_CLASS_GAIN:
        named = planned[:, None] & (classes < gain_classes)
        gains = tl.load(class_gain + place[:, None] * gain_classes + classes, mask=named, other=1.0)
        factors = factors * gains.to(tl.float32)
    if HAS_HEAD_GAIN:
        factors = factors * tl.load(head_gain + place, mask=valid, other=1.0).to(tl.float32)[:, None]
    if WANT_MASS:
        tl.store(
            mass_out + (place * rows + row)[:, None] * mass_classes + classes,
            sums * inverse[:, None],
            mask=valid[:, None] & (classes < mass_classes),
        )

    acc = tl.zeros((ROWS, PADDED), tl.float32)
    text_sum = tl.zeros((ROWS,), tl.float32)
    text_acc = tl.zeros((ROWS, PADDED), tl.float32)
    for start in range(0, stop, BLOCK):
        logits, kind = _tile(
            q, key_base, key_row, class_base, mask_base, boost_base, factor_base, start, keys, row, head, valid,
            planned, mask_head, mask_row, boost_head, factor_head, scale, SIZE, PADDED, BLOCK, MASK, HAS_CLASSES,
            HAS_BOOST, HAS_FACTOR,
        )  # fmt: skip
        weights = tl.exp2(logits - highest[:, None])
        number = start + tl.arange(0, BLOCK)
        v = tl.load(  # [BLOCK, PADDED]
            value_base + number[:, None] * value_row + column[None, :],
            mask=(number < keys)[:, None] & (column[None, :] < SIZE),
            other=0.0,
        )
        if WANT_BLINDED:
            text = tl.where(((kind != 2) & (kind != 3))[None, :], weights, 0.0)
            text_sum += tl.sum(text, 1)
            text_acc += tl.dot(text.to(v.dtype), v, input_precision="ieee")
        times = tl.zeros((ROWS, BLOCK), tl.float32)
        for other in tl.static_range(8):
            mine = tl.sum(tl.where(classes == other, factors, 0.0), 1)
            times = tl.where(kind[None, :] == other, mine[:, None], times)
        acc += tl.dot((weights * times * inverse[:, None]).to(v.dtype), v, input_precision="ieee")

    here = ((place * rows + row) * SIZE)[:, None] + column[None, :]
    tl.store(output + here, acc.to(output.dtype.element_ty), mask=filled)
    if WANT_BLINDED:
        blinded = text_acc / tl.where(text_sum > 0.0, text_sum, 1.0)[:, None]
        tl.store(blinded_out + here, blinded.to(blinded_out.dtype.element_ty), mask=filled)


@dataclass(frozen=True)
class TailShape:
    """How the tail kernel is cut for a head size and a dtype: chosen by rule, never tuned at run time."""

    padded: int
    rows: int
    block: int
    warps: int
    stages: int

    @staticmethod
    def of(size: int, pairs: int, dtype: torch.dtype) -> TailShape:
        """Return tile sizes; short tails get sixteen rows a block, so that more blocks share the work."""
        padded = triton.next_power_of_2(size)
        heavy = dtype is torch.float32 or padded == 256
        rows = 16 if pairs <= 512 or heavy else 64
        return TailShape(padded, rows, block=32 if heavy else 64, warps=8, stages=2)


@torch.library.custom_op("vlm_kernels::tail", mutates_args=("output",))
def tail(
    output: Tensor,
    first: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_class: Tensor | None,
    mask: Tensor | None,
    head_gain: Tensor | None,
    class_gain: Tensor | None,
    logit_boost: Tensor | None,
    logit_factor: Tensor | None,
    rows: Tensor | None,
    rule_heads: Tensor | None,
    rule_rows: Tensor | None,
    scale: float,
    moved: float,
    max_sink_share: float,
    min_image_mass: float,
    share_epsilon: float,
    strict: bool,
    classes: int,
    want_mass: bool,
    want_blinded: bool,
    want_moved: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write the edited rows from `first` on into the contiguous `output`; return mass, blinded output, moved mass.

    What is not wanted is empty. Rows before `first` have moved nothing; mass and blinded output are wanted with
    `first` 0 only. Tensors are laid out as `vlm_kernels.attend` takes them; `moved` 0 means no redistribution.
    """
    assert output.is_contiguous()
    batch, heads, count, size = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    group = heads // kv_heads
    key, value, query = launch.unit_stride(key), launch.unit_stride(value), launch.unit_stride(query)
    pairs = (count - first) * group
    shape = TailShape.of(size, pairs, query.dtype)
    results = launch.empty_results(query, classes, want_mass, want_blinded, want_moved)
    if want_moved:
        results[2][:, :, :first] = 0.0
    if pairs == 0:
        return results
    mask_bytes, mask_strides = launch.spread(mask, (batch, heads, count, keys), query)
    boost, boost_strides = launch.spread(logit_boost, (batch, heads, keys), query)
    factor, factor_strides = launch.spread(logit_factor, (batch, heads, keys), query)
    with launch.on_device(query):
        tail_kernel[(triton.cdiv(pairs, shape.rows), batch * kv_heads)](
            query,
            key,
            value,
            query if key_class is None else launch.unit_stride(key_class),
            mask_bytes,
            boost,
            factor,
            launch.dense(head_gain, query),
            launch.dense(class_gain, query),
            launch.dense(rule_heads, query),
            launch.dense(rule_rows, query),
            launch.dense(rows, query),
            launch.dense(launch.extra_image_mass(key_class, share_epsilon), query),
            output,
            *results,
            first,
            count,
            heads,
            kv_heads,
            keys,
            *query.stride()[:3],
            *key.stride()[:3],
            *value.stride()[:3],
            *mask_strides,
            *boost_strides,
            *factor_strides,
            0 if key_class is None else key_class.stride(0),
            scale * launch.LOG2_E,
            moved,
            max_sink_share,
            min_image_mass,
            classes,
            0 if class_gain is None else class_gain.shape[-1],
            SIZE=size,
            PADDED=shape.padded,
            GROUP=group,
            ROWS=shape.rows,
            BLOCK=shape.block,
            MASK=launch.mask_kind(mask),
            HAS_CLASSES=key_class is not None,
            HAS_BOOST=logit_boost is not None,
            HAS_FACTOR=logit_factor is not None,
            MOVES=moved > 0.0,
            STRICT=strict,
            HAS_EXTRA=share_epsilon > 0.0,
            HAS_HEAD_GAIN=head_gain is not None,
            HAS_CLASS_GAIN=class_gain is not None,
            HAS_RULE_HEADS=rule_heads is not None,
            HAS_RULE_ROWS=rule_rows is not None,
            HAS_PLAN_ROWS=rows is not None,
            WANT_MASS=want_mass,
            WANT_BLINDED=want_blinded,
            WANT_MOVED=want_moved,
            num_warps=shape.warps,
            num_stages=shape.stages,
        )
    return results


@tail.register_fake
def _(
    output: Tensor,
    first: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_class: Tensor | None,
    mask: Tensor | None,
    head_gain: Tensor | None,
    class_gain: Tensor | None,
    logit_boost: Tensor | None,
    logit_factor: Tensor | None,
    rows: Tensor | None,
    rule_heads: Tensor | None,
    rule_rows: Tensor | None,
    scale: float,
    moved: float,
    max_sink_share: float,
    min_image_mass: float,
    share_epsilon: float,
    strict: bool,
    classes: int,
    want_mass: bool,
    want_blinded: bool,
    want_moved: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return launch.empty_results(query, classes, want_mass, want_blinded, want_moved)
