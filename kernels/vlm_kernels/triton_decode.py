# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""One pass over keys and values for one query row, with an accumulator per key class.

A tile's rows are pairs of a query head and a key class: row `8 * head + class`. Every row is a softmax of its own over
the keys of its class. So one product on tensor cores serves all classes, and all heads of a group share each load of
keys and values. The keys are split over blocks. The block that arrives last joins the parts; masses are known then, and
it applies redistribution and gains. The algebra is that of `reference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlm_kernels import triton_launch as launch
from vlm_kernels.triton_edit import Edit, flat
from vlm_kernels.triton_epilogue import CLASS_SLOTS, finish_heads

MOST_REGISTERS = 168
SINGLE_REGISTERS = 96  # of float32, which has no tensor cores to feed: left alone, ptxas takes 64 and spills


@triton.jit
def _each_class(
    per_head,  # [HEADS, BLOCK]
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return each head's row once for every class, `[8 * HEADS, BLOCK]`."""
    repeated = tl.broadcast_to(per_head[:, None, :], (HEADS, CLASS_SLOTS, BLOCK))
    return tl.reshape(repeated, (HEADS * CLASS_SLOTS, BLOCK))


@triton.jit(
    do_not_specialize=[
        "keys", "span", "mask_batch", "mask_head", "boost_batch",
        "boost_head", "factor_batch", "factor_head", "shift_batch", "shift_head", "gain_batch", "gain_head",
        "empty_batch", "empty_head", "class_batch",
    ]
)  # fmt: skip
def decode_kernel(
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
    part_top,
    part_total,
    part_acc,
    arrivals,
    heads,
    kv_heads,
    keys,
    span,  # keys per split, a multiple of BLOCK
    query_batch,
    query_head,
    key_batch,
    key_head,
    key_row,
    value_batch,
    value_head,
    value_row,
    mask_batch,
    mask_head,
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
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    STRICT: tl.constexpr,
) -> None:
    """Attend one query row; grid (batch rows x key heads x parts of a group, splits of the keys)."""
    PARTS: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    ROWS: tl.constexpr = HEADS * CLASS_SLOTS
    tile = tl.program_id(0)
    split = tl.program_id(1)
    part = tile % PARTS
    kv_head = (tile // PARTS) % kv_heads
    batch = (tile // PARTS // kv_heads).to(tl.int64)
    first_head = kv_head * GROUP + part * HEADS
    head_limit = (kv_head + 1) * GROUP

    row = tl.arange(0, ROWS)
    row_class = row % CLASS_SLOTS
    row_head = first_head + row // CLASS_SLOTS
    valid = row_head < head_limit
    tile_head = first_head + tl.arange(0, HEADS)
    column = tl.arange(0, PADDED)
    q = tl.load(  # [ROWS, PADDED], each head's query once for every class
        query + batch * query_batch + row_head[:, None] * query_head + column[None, :],
        mask=valid[:, None] & (column[None, :] < SIZE),
        other=0.0,
    )
    planned = True
    if plan_rows is not None:
        planned = tl.load(plan_rows + batch) <= 0

    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, PADDED), tl.float32)
    key_base = key + batch * key_batch + kv_head * key_head
    value_base = value + batch * value_batch + kv_head * value_head
    if key_class is not None:
        key_class += batch * class_batch
    stop = tl.minimum(keys, (split + 1) * span)
    for start in range(split * span, stop, BLOCK):
        number = start + tl.arange(0, BLOCK)
        here = number < stop
        k = tl.load(  # [PADDED, BLOCK]
            key_base + number[None, :] * key_row + column[:, None],
            mask=here[None, :] & (column[:, None] < SIZE),
            other=0.0,
        )
        logits = tl.dot(q, k, input_precision="ieee") * scale
        known = (tile_head < head_limit)[:, None] & here[None, :]
        if factor is not None:
            place = factor + batch * factor_batch + tile_head[:, None] * factor_head + number[None, :]
            times = tl.load(place, mask=known & planned, other=1.0)
            logits *= _each_class(times.to(tl.float32), HEADS, BLOCK)
        if boost is not None:
            place = boost + batch * boost_batch + tile_head[:, None] * boost_head + number[None, :]
            strength = tl.load(place, mask=known & planned, other=0.0)
            logits += _each_class(strength.to(tl.float32), HEADS, BLOCK) * tl.abs(logits)
        if shift is not None:
            place = shift + batch * shift_batch + tile_head[:, None] * shift_head + number[None, :]
            logits += _each_class(tl.load(place, mask=known & planned, other=0.0), HEADS, BLOCK)
        kind = tl.load(key_class + number, mask=here, other=-1) if key_class is not None else tl.where(here, 0, -1)
        seen = kind[None, :] == row_class[:, None]
        if mask is not None:
            place = mask + batch * mask_batch + tile_head[:, None] * mask_head + number[None, :]
            added = tl.load(place, mask=known, other=0)
            added = _each_class(added, HEADS, BLOCK)
            if mask.dtype.element_ty == tl.uint8:
                seen = seen & (added != 0)
            else:
                logits += added.to(tl.float32) * 1.4426950408889634
        logits = tl.where(seen, logits, float("-inf"))
        new_top = tl.maximum(top, tl.max(logits, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(logits - base[:, None])
        rescale = tl.exp2(top - base)
        total = total * rescale + tl.sum(weights, 1)
        if gain is not None:
            place = gain + batch * gain_batch + tile_head[:, None] * gain_head + number[None, :]
            times = tl.load(place, mask=known & planned, other=1.0)
            weights *= _each_class(times.to(tl.float32), HEADS, BLOCK)
        v = tl.load(  # [BLOCK, PADDED]
            value_base + number[:, None] * value_row + column[None, :],
            mask=here[:, None] & (column[None, :] < SIZE),
            other=0.0,
        )
        acc = acc * rescale[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = new_top

    last = True
    if arrivals is not None:
        splits = tl.num_programs(1)
        slot = (tile * splits + split) * ROWS + row
        filled = (total > 0.0)[:, None] & (column[None, :] < SIZE)
        tl.store(part_top + slot, top)
        tl.store(part_total + slot, total)
        tl.store(part_acc + slot[:, None] * SIZE + column[None, :], acc, mask=filled)
        tl.debug_barrier()
        last = tl.atomic_add(arrivals + tile, 1, sem="acq_rel") == splits - 1
        if last:
            tl.store(arrivals + tile, 0)
            top = tl.full((ROWS,), float("-inf"), tl.float32)
            total = tl.zeros((ROWS,), tl.float32)
            acc = tl.zeros((ROWS, PADDED), tl.float32)
            for other in range(splits):
                slot = (tile * splits + other) * ROWS + row
                other_top = tl.load(part_top + slot, cache_modifier=".cg")
                other_total = tl.load(part_total + slot, cache_modifier=".cg")
                filled = (other_total > 0.0)[:, None] & (column[None, :] < SIZE)
                other_acc = tl.load(
                    part_acc + slot[:, None] * SIZE + column[None, :], mask=filled, other=0.0, cache_modifier=".cg"
                )
                new_top = tl.maximum(top, other_top)
                base = tl.where(new_top == float("-inf"), 0.0, new_top)
                mine = tl.exp2(top - base)
                theirs = tl.exp2(other_top - base)
                total = total * mine + other_total * theirs
                acc = acc * mine[:, None] + other_acc * theirs[:, None]
                top = new_top
    if last:
        finish_heads(
            top,
            total,
            acc,
            batch,
            first_head,
            head_limit,
            heads,
            output=output,
            mass_out=mass_out,
            blinded_out=blinded_out,
            moved_out=moved_out,
            empty=empty,
            empty_batch=empty_batch,
            empty_head=empty_head,
            head_gain=head_gain,
            class_gain=class_gain,
            rule_heads=rule_heads,
            rule_rows=rule_rows,
            plan_rows=plan_rows,
            extra_mass=extra_mass,
            moved=moved,
            max_sink_share=max_sink_share,
            min_image_mass=min_image_mass,
            mass_classes=mass_classes,
            gain_classes=gain_classes,
            SIZE=SIZE,
            PADDED=PADDED,
            HEADS=HEADS,
            STRICT=STRICT,
        )


@dataclass(frozen=True)
class DecodeShape:
    """How the decode kernel is cut for a head size, a group and a dtype: chosen by rule, never tuned at run time."""

    padded: int
    heads: int
    block: int
    warps: int
    stages: int = 2
    registers: int | None = None  # the most a thread may use, where the compiler would take more

    @staticmethod
    def of(size: int, group: int, dtype: torch.dtype, rich: bool) -> DecodeShape:
        """Return tile sizes; two heads at least, since sixteen rows are the least that tensor cores take.

        Rich calls have a mask or something stated key by key, or want the image-blinded output. Without a bound the
        compiler gives some of them far more registers than they need; with one it gives others more than it would by
        itself. Rich calls in float32 load one block at a time: loading the next one meanwhile makes them spill on
        sm_90.
        """
        padded = launch.power_of_two(size)
        if dtype is torch.float32:
            block, warps = (16, 16) if padded == 256 else (32, 8)
            return DecodeShape(padded, 2, block, warps, stages=1 if rich else 2, registers=SINGLE_REGISTERS)
        heads = max(2, min(4 if padded == 256 else 8, launch.power_of_two(group)))
        block = 32 if padded != size or padded == 256 else 64
        warps = 4 if heads * padded <= 256 else 8
        return DecodeShape(padded, heads, block, warps, registers=MOST_REGISTERS if rich else None)


def decode(query: Tensor, key: Tensor, value: Tensor, edit: Edit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, mass, blinded output and moved mass of one query row; what is not wanted is empty.

    Nothing here waits for the device.

    Args:
        query: `[B, Hq, 1, D]`.
        key: `[B, Hkv, Tk, D]`.
        value: `[B, Hkv, Tk, D]`.
        edit: what to change and what to report.
    """
    results: tuple[Tensor, Tensor, Tensor, Tensor] = decode_operator(query, key, value, *edit)
    return results


@torch.library.custom_op("vlm_kernels::decode", mutates_args=())
@flat
def decode_operator(query: Tensor, key: Tensor, value: Tensor, edit: Edit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernel; see `decode`."""
    batch, heads, _, size = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    key, value, query = launch.unit_stride(key), launch.unit_stride(value), launch.unit_stride(query)
    shape = DecodeShape.of(size, heads // kv_heads, query.dtype, rich=edit.changes_keys or edit.want_blinded)
    tiles = batch * kv_heads * launch.ceil_div(heads // kv_heads, shape.heads)
    span = keys_per_split(keys, tiles, shape.block, launch.processors(query.device))
    splits = launch.ceil_div(keys, span)
    output = query.new_empty(query.shape)
    results = launch.empty_results(query, edit)
    with launch.on_device(query):
        decode_kernel[(tiles, splits)](
            query=query,
            key=key,
            value=value,
            output=output,
            **launch.operands(edit, query, keys, results),
            **_parts(query, tiles, splits, shape.heads * 8),
            heads=heads,
            kv_heads=kv_heads,
            keys=keys,
            span=span,
            query_batch=query.stride(0),
            query_head=query.stride(1),
            **launch.strides(key=key, value=value),
            SIZE=size,
            PADDED=shape.padded,
            GROUP=heads // kv_heads,
            HEADS=shape.heads,
            BLOCK=shape.block,
            num_warps=shape.warps,
            num_stages=shape.stages,
            maxnreg=shape.registers,
        )
    return output, *results


@decode_operator.register_fake
@flat
def _(query: Tensor, key: Tensor, value: Tensor, edit: Edit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), *launch.empty_results(query, edit)


def keys_per_split(keys: int, tiles: int, block: int, processors: int) -> int:
    """Return a multiple of `block`: enough splits to fill the device twice, and two blocks of keys in each at least."""
    wanted = max(1, min(launch.ceil_div(2 * processors, tiles), launch.ceil_div(keys, 2 * block)))
    return launch.ceil_div(launch.ceil_div(keys, wanted), block) * block


def _parts(query: Tensor, tiles: int, splits: int, rows: int) -> dict[str, Tensor | None]:
    """Return memory for what the splits hand to the last of them, and their arrival counters; None for one split."""
    if splits == 1:
        return dict.fromkeys(("part_top", "part_total", "part_acc", "arrivals"))
    tops = query.new_empty((2, tiles * splits * rows), dtype=torch.float32)
    sums = query.new_empty((tiles * splits * rows, query.shape[-1]), dtype=torch.float32)
    counters = launch.arrival_counters(query, tiles)
    return {"part_top": tops[0], "part_total": tops[1], "part_acc": sums, "arrivals": counters}
