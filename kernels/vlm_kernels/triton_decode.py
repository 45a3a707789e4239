# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""One pass over keys and values for one query row, with an accumulator per key class.

A tile's rows are pairs of a query head and a key class: row `8 * head + class`. Every row is a softmax of its own over
the keys of its class, so that one product on tensor cores serves all classes, and all heads of a group share each load
of keys and values. The keys are split over blocks; the block that arrives last joins the parts and, since masses are
known then, applies redistribution and gains. The algebra is that of `reference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlm_kernels import triton_launch as launch
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
        "boost_head", "factor_batch", "factor_head", "class_batch",
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
    SPLIT: tl.constexpr,
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
    if HAS_PLAN_ROWS:
        planned = tl.load(plan_rows + batch) <= 0

    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, PADDED), tl.float32)
    key_base = key + batch * key_batch + kv_head * key_head
    value_base = value + batch * value_batch + kv_head * value_head
    class_base = key_class + batch * class_batch
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
        if HAS_FACTOR:
            place = factor + batch * factor_batch + tile_head[:, None] * factor_head + number[None, :]
            times = tl.load(place, mask=known & planned, other=1.0)
            logits *= _each_class(times.to(tl.float32), HEADS, BLOCK)
        if HAS_BOOST:
            place = boost + batch * boost_batch + tile_head[:, None] * boost_head + number[None, :]
            strength = tl.load(place, mask=known & planned, other=0.0)
            logits += _each_class(strength.to(tl.float32), HEADS, BLOCK) * tl.abs(logits)
        kind = tl.load(class_base + number, mask=here, other=-1) if HAS_CLASSES else tl.where(here, 0, -1)
        seen = kind[None, :] == row_class[:, None]
        if MASK != 0:
            place = mask + batch * mask_batch + tile_head[:, None] * mask_head + number[None, :]
            added = tl.load(place, mask=known, other=0)
            added = _each_class(added, HEADS, BLOCK)
            if MASK == 1:
                seen = seen & (added != 0)
            else:
                logits += added.to(tl.float32) * 1.4426950408889634
        logits = tl.where(seen, logits, float("-inf"))
        new_top = tl.maximum(top, tl.max(logits, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(logits - base[:, None])
        rescale = tl.exp2(top - base)
        total = total * rescale + tl.sum(weights, 1)
        v = tl.load(  # [BLOCK, PADDED]
            value_base + number[:, None] * value_row + column[None, :],
            mask=here[:, None] & (column[None, :] < SIZE),
            other=0.0,
        )
        acc = acc * rescale[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = new_top

    last = True
    if SPLIT:
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
            output,
            mass_out,
            blinded_out,
            moved_out,
            head_gain,
            class_gain,
            rule_heads,
            rule_rows,
            plan_rows,
            extra_mass,
            moved,
            max_sink_share,
            min_image_mass,
            mass_classes,
            gain_classes,
            SIZE,
            PADDED,
            HEADS,
            MOVES,
            STRICT,
            HAS_EXTRA,
            HAS_HEAD_GAIN,
            HAS_CLASS_GAIN,
            HAS_RULE_HEADS,
            HAS_RULE_ROWS,
            HAS_PLAN_ROWS,
            WANT_MASS,
            WANT_BLINDED,
            WANT_MOVED,
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

        Rich calls have a mask or a boost or want the image-blinded output; without a bound the compiler gives some of
        them far more registers than they need, and with one it gives others more than it would by itself. Rich calls
        in float32 load one block at a time: with the next one under way they spill on sm_90.
        """
        padded = triton.next_power_of_2(size)
        if dtype is torch.float32:
            block, warps = (16, 16) if padded == 256 else (32, 8)
            return DecodeShape(padded, 2, block, warps, stages=1 if rich else 2, registers=SINGLE_REGISTERS)
        heads = max(2, min(4 if padded == 256 else 8, triton.next_power_of_2(group)))
        block = 32 if padded != size or padded == 256 else 64
        warps = 4 if heads * padded <= 256 else 8
        return DecodeShape(padded, heads, block, warps, registers=MOST_REGISTERS if rich else None)


@torch.library.custom_op("vlm_kernels::decode", mutates_args=())
def decode(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, mass, blinded output and moved mass of one query row; what is not wanted is empty.

    Nothing here waits for the device. Tensors are laid out as `vlm_kernels.attend` takes them; `moved` 0 means no
    redistribution.
    """
    batch, heads, _, size = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    key, value, query = launch.unit_stride(key), launch.unit_stride(value), launch.unit_stride(query)
    rich = mask is not None or logit_boost is not None or logit_factor is not None or want_blinded
    shape = DecodeShape.of(size, heads // kv_heads, query.dtype, rich)
    tiles = batch * kv_heads * triton.cdiv(heads // kv_heads, shape.heads)
    span = keys_per_split(keys, tiles, shape.block, launch.processors(query.device))
    splits = triton.cdiv(keys, span)
    output = query.new_empty(query.shape)
    results = launch.empty_results(query, classes, want_mass, want_blinded, want_moved)
    mask_bytes, mask_strides = launch.spread(mask, (batch, heads, 1, keys), query)
    boost, boost_strides = launch.spread(logit_boost, (batch, heads, keys), query)
    factor, factor_strides = launch.spread(logit_factor, (batch, heads, keys), query)
    with launch.on_device(query):
        decode_kernel[(tiles, splits)](
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
            *_parts(query, tiles, splits, shape.heads * 8),
            heads,
            kv_heads,
            keys,
            span,
            *query.stride()[:2],
            *key.stride()[:3],
            *value.stride()[:3],
            *mask_strides[:2],
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
            GROUP=heads // kv_heads,
            HEADS=shape.heads,
            BLOCK=shape.block,
            SPLIT=splits > 1,
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
            maxnreg=shape.registers,
        )
    return output, *results


@decode.register_fake
def _(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    output = query.new_empty(query.shape)
    return output, *launch.empty_results(query, classes, want_mass, want_blinded, want_moved)


def keys_per_split(keys: int, tiles: int, block: int, processors: int) -> int:
    """Return a multiple of `block`: enough splits to fill the device twice, and two blocks of keys in each at least."""
    wanted = max(1, min(triton.cdiv(2 * processors, tiles), triton.cdiv(keys, 2 * block)))
    return int(triton.cdiv(triton.cdiv(keys, wanted), block) * block)


def _parts(query: Tensor, tiles: int, splits: int, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return memory for what the splits hand to the last of them: maxima, sums, value sums, arrival counters."""
    if splits == 1:
        return query, query, query, query
    tops = query.new_empty((2, tiles * splits * rows), dtype=torch.float32)
    sums = query.new_empty((tiles * splits * rows, query.shape[-1]), dtype=torch.float32)
    return tops[0], tops[1], sums, launch.arrival_counters(query, tiles)
