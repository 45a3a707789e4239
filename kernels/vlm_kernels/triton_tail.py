# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The edited rows of a prefill: those after the image, few beside the rows that stock attention computes.

Masses are known only when a row is finished, so each block goes over the keys twice. The first time it sums up every
class, without values; the second time it makes the output with each class's factor in place. Query heads of a group are
rows of the same block and share its keys and values. The algebra is that of `reference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlm_kernels import triton_launch as launch
from vlm_kernels.triton_edit import Edit, flat
from vlm_kernels.triton_epilogue import rule_factors

EMPTY_KEY_REGISTERS = 128


@triton.jit
def _tile(
    q,  # [ROWS, PADDED]
    key_base,
    key_row,
    start,
    keys,
    row,  # [ROWS], number of the query row
    head,  # [ROWS]
    valid,  # [ROWS]
    planned,  # [ROWS], whether factor, boost and shift act
    scale,
    key_class,  # this and the next four of this batch row, or None
    mask,
    boost,
    factor,
    shift,
    mask_head,
    mask_row,
    boost_head,
    factor_head,
    shift_head,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
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
    if factor is not None:
        times = tl.load(factor + head[:, None] * factor_head + number[None, :], mask=acting, other=1.0)
        logits *= times.to(tl.float32)
    if boost is not None:
        strength = tl.load(boost + head[:, None] * boost_head + number[None, :], mask=acting, other=0.0)
        logits += strength.to(tl.float32) * tl.abs(logits)
    if shift is not None:
        logits += tl.load(shift + head[:, None] * shift_head + number[None, :], mask=acting, other=0.0)
    kind = tl.load(key_class + number, mask=here, other=-1) if key_class is not None else tl.where(here, 0, -1)
    seen = (kind >= 0)[None, :] & valid[:, None]
    if mask is None:
        seen = seen & (number[None, :] <= row[:, None])
    else:
        added = tl.load(
            mask + head[:, None] * mask_head + row[:, None] * mask_row + number[None, :],
            mask=valid[:, None] & here[None, :],
            other=0,
        )
        if mask.dtype.element_ty == tl.uint8:
            seen = seen & (added != 0)
        else:
            logits += added.to(tl.float32) * 1.4426950408889634
    return tl.where(seen, logits, float("-inf")), kind


@triton.jit(
    do_not_specialize=[
        "first", "rows", "keys", "mask_batch", "mask_head", "mask_row",
        "boost_batch", "boost_head", "factor_batch", "factor_head", "shift_batch", "shift_head",
        "gain_batch", "gain_head", "empty_batch", "empty_head", "empty_row", "class_batch",
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
    shift,  # logarithm of each key's weight, base 2
    gain,
    empty,  # logarithm of the empty key's weight, base 2
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
    shift_batch,
    shift_head,
    gain_batch,
    gain_head,
    empty_batch,
    empty_head,
    empty_row,
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
    STRICT: tl.constexpr,
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
    if plan_rows is not None:
        planned = planned & (row >= tl.load(plan_rows + batch))
    key_base = key + batch * key_batch + kv_head * key_head
    value_base = value + batch * value_batch + kv_head * value_head
    if key_class is not None:
        key_class += batch * class_batch
    if mask is not None:
        mask += batch * mask_batch
    if boost is not None:
        boost += batch * boost_batch
    if factor is not None:
        factor += batch * factor_batch
    if shift is not None:
        shift += batch * shift_batch
    if gain is not None:
        gain += batch * gain_batch
    if empty is not None:
        empty += batch * empty_batch
    stop = keys
    if mask is None:
        stop = tl.minimum(keys, first + (tl.program_id(0) * ROWS + ROWS - 1) // GROUP + 1)

    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    classes = tl.arange(0, 8)[None, :]
    sums = tl.zeros((ROWS, 8), tl.float32)
    for start in range(0, stop, BLOCK):
        logits, kind = _tile(
            q, key_base, key_row, start, keys, row, head, valid, planned, scale,
            key_class=key_class, mask=mask, mask_head=mask_head, mask_row=mask_row, boost=boost,
            boost_head=boost_head, factor=factor, factor_head=factor_head, shift=shift, shift_head=shift_head,
            SIZE=SIZE, PADDED=PADDED, BLOCK=BLOCK,
        )  # fmt: skip
        new_top = tl.maximum(top, tl.max(logits, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(logits - base[:, None])
        rescale = tl.exp2(top - base)
        total = total * rescale + tl.sum(weights, 1)
        sums = sums * rescale[:, None]
        if mass_out is not None:
            for number in tl.static_range(8):
                part = tl.sum(tl.where(kind[None, :] == number, weights, 0.0), 1)
                sums += tl.where(classes == number, part[:, None], 0.0)
        elif moved is not None:
            for number in tl.static_range(1, 4):
                part = tl.sum(tl.where(kind[None, :] == number, weights, 0.0), 1)
                sums += tl.where(classes == number, part[:, None], 0.0)
        top = new_top

    highest = tl.where(top == float("-inf"), 0.0, top)
    if empty is not None:
        own = empty + head * empty_head + row * empty_row
        total += tl.exp2(tl.load(own, mask=planned, other=float("-inf")) - highest)
    inverse = 1.0 / tl.where(total > 0.0, total, 1.0)
    place = batch * heads + head
    factors = tl.full((ROWS, 8), 1.0, tl.float32)
    if moved is not None:
        allowed_rows = valid
        if rule_heads is not None:
            allowed_rows = allowed_rows & (tl.load(rule_heads + place, mask=valid, other=0) != 0)
        if rule_rows is not None:
            allowed_rows = allowed_rows & (row >= tl.load(rule_rows + batch))
        extra = 0.0
        if extra_mass is not None:
            extra = tl.load(extra_mass + batch)
        factors, handed = rule_factors(
            sums * inverse[:, None], classes, allowed_rows, extra, moved, max_sink_share, min_image_mass, STRICT
        )
        if moved_out is not None:
            tl.store(moved_out + place * rows + row, handed, mask=valid)
    if class_gain is not None:
        named = planned[:, None] & (classes < gain_classes)
        gains = tl.load(class_gain + place[:, None] * gain_classes + classes, mask=named, other=1.0)
        factors = factors * gains.to(tl.float32)
    if head_gain is not None:
        factors = factors * tl.load(head_gain + place, mask=valid, other=1.0).to(tl.float32)[:, None]
    if mass_out is not None:
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
            q, key_base, key_row, start, keys, row, head, valid, planned, scale,
            key_class=key_class, mask=mask, mask_head=mask_head, mask_row=mask_row, boost=boost,
            boost_head=boost_head, factor=factor, factor_head=factor_head, shift=shift, shift_head=shift_head,
            SIZE=SIZE, PADDED=PADDED, BLOCK=BLOCK,
        )  # fmt: skip
        weights = tl.exp2(logits - highest[:, None])
        number = start + tl.arange(0, BLOCK)
        v = tl.load(  # [BLOCK, PADDED]
            value_base + number[:, None] * value_row + column[None, :],
            mask=(number < keys)[:, None] & (column[None, :] < SIZE),
            other=0.0,
        )
        if gain is not None:
            acting = planned[:, None] & (number < keys)[None, :]
            value_gains = tl.load(gain + head[:, None] * gain_head + number[None, :], mask=acting, other=1.0)
        if blinded_out is not None:
            text = tl.where(((kind != 2) & (kind != 3))[None, :], weights, 0.0)
            text_sum += tl.sum(text, 1)
            if gain is not None:
                text *= value_gains.to(tl.float32)
            text_acc += tl.dot(text.to(v.dtype), v, input_precision="ieee")
        times = tl.zeros((ROWS, BLOCK), tl.float32)
        for other in tl.static_range(8):
            mine = tl.sum(tl.where(classes == other, factors, 0.0), 1)
            times = tl.where(kind[None, :] == other, mine[:, None], times)
        if gain is not None:
            times *= value_gains.to(tl.float32)
        acc += tl.dot((weights * times * inverse[:, None]).to(v.dtype), v, input_precision="ieee")

    here = ((place * rows + row) * SIZE)[:, None] + column[None, :]
    tl.store(output + here, acc.to(output.dtype.element_ty), mask=filled)
    if blinded_out is not None:
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
    registers: int | None = None  # the most a thread may use; unbounded, ptxas takes 80 for an empty key and spills

    @staticmethod
    def of(size: int, pairs: int, dtype: torch.dtype, empty_key: bool) -> TailShape:
        """Return tile sizes; short tails get sixteen rows a block, so that more blocks share the work."""
        padded = launch.power_of_two(size)
        heavy = dtype is torch.float32 or padded == 256
        rows = 16 if pairs <= 512 or heavy else 64
        registers = EMPTY_KEY_REGISTERS if empty_key else None
        return TailShape(padded, rows, block=32 if heavy else 64, warps=8, stages=2, registers=registers)


def tail(
    output: Tensor, first: int, query: Tensor, key: Tensor, value: Tensor, edit: Edit
) -> tuple[Tensor, Tensor, Tensor]:
    """Write the edited rows from `first` on into the contiguous `output`; return mass, blinded output, moved mass.

    What is not wanted is empty. Rows before `first` have moved nothing; mass and blinded output are wanted with
    `first` 0 only.

    Args:
        output: `[B, Hq, Tq, D]`, its rows before `first` written already.
        first: the first row to compute, 0..Tq.
        query: `[B, Hq, Tq, D]`.
        key: `[B, Hkv, Tk, D]`.
        value: `[B, Hkv, Tk, D]`.
        edit: what to change and what to report.
    """
    results: tuple[Tensor, Tensor, Tensor] = tail_operator(output, first, query, key, value, *edit)
    return results


@torch.library.custom_op("vlm_kernels::tail", mutates_args=("output",))
@flat
def tail_operator(
    output: Tensor, first: int, query: Tensor, key: Tensor, value: Tensor, edit: Edit
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel; see `tail`."""
    assert output.is_contiguous()
    batch, heads, count, size = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    group = heads // kv_heads
    key, value, query = launch.unit_stride(key), launch.unit_stride(value), launch.unit_stride(query)
    pairs = (count - first) * group
    shape = TailShape.of(size, pairs, query.dtype, edit.empty_key is not None)
    results = launch.empty_results(query, edit)
    if edit.want_moved:
        results[2][:, :, :first] = 0.0
    if pairs == 0:
        return results
    operands = launch.operands(edit, query, keys, results)
    with launch.on_device(query):
        tail_kernel[(launch.ceil_div(pairs, shape.rows), batch * kv_heads)](
            query=query,
            key=key,
            value=value,
            output=output,
            **operands,
            mask_row=launch.stride(operands["mask"], 2),
            empty_row=launch.stride(operands["empty"], 2),
            first=first,
            rows=count,
            heads=heads,
            kv_heads=kv_heads,
            keys=keys,
            **launch.strides(query=query, key=key, value=value),
            SIZE=size,
            PADDED=shape.padded,
            GROUP=group,
            ROWS=shape.rows,
            BLOCK=shape.block,
            num_warps=shape.warps,
            num_stages=shape.stages,
            maxnreg=shape.registers,
        )
    return results


@tail_operator.register_fake
@flat
def _(
    output: Tensor, first: int, query: Tensor, key: Tensor, value: Tensor, edit: Edit
) -> tuple[Tensor, Tensor, Tensor]:
    return launch.empty_results(query, edit)
