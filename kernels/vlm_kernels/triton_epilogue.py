# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""What both kernels do once the sums of a row's classes are known: the rule, the gains, and what is written out."""

from __future__ import annotations

import triton
import triton.language as tl

CLASS_SLOTS = tl.constexpr(8)


@triton.jit
def rule_factors(
    mass,  # [N, 8], softmax mass per class
    classes,  # [1, 8]
    allowed_rows,  # [N], whether head and row may be selected
    extra_image_mass,
    moved,
    max_sink_share,
    min_image_mass,
    STRICT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Return each class's factor `[N, 8]` after redistribution, and the mass that sinks handed on `[N]`."""
    text_sink = tl.sum(tl.where(classes == 1, mass, 0.0), 1)
    image_sink = tl.sum(tl.where(classes == 2, mass, 0.0), 1)
    image = tl.sum(tl.where(classes == 3, mass, 0.0), 1)
    allowed = max_sink_share * (image_sink + image + extra_image_mass)
    if STRICT:
        chosen = (image_sink < allowed) & (image_sink + image > min_image_mass)
    else:
        chosen = (image_sink <= allowed) & (image_sink + image >= min_image_mass)
    chosen = chosen & (image > 0.0) & allowed_rows
    share = tl.where(chosen, moved, 0.0)
    handed = share * (text_sink + image_sink)
    grown = handed / tl.where(image > 0.0, image, 1.0)
    sinks = (classes == 1) | (classes == 2)
    factors = 1.0 - tl.where(sinks, share[:, None], 0.0) + tl.where(classes == 3, grown[:, None], 0.0)
    return factors, handed


@triton.jit
def finish_heads(
    top,  # [R], largest logit of each (head, class), in units of log2
    total,  # [R], sum of its exponentials
    acc,  # [R, P], their sum times the values
    batch,
    first_head,
    head_limit,
    heads,
    output,
    mass_out,
    blinded_out,
    moved_out,
    empty,  # logarithm of the empty key's weight, base 2
    empty_batch,
    empty_head,
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
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    HEADS: tl.constexpr,
    STRICT: tl.constexpr,
) -> None:
    """Apply the plan to the finished class sums of `HEADS` heads and write everything that was asked for."""
    top = tl.reshape(top, (HEADS, CLASS_SLOTS))
    total = tl.reshape(total, (HEADS, CLASS_SLOTS))
    highest = tl.max(top, 1)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    rescale = tl.exp2(top - highest[:, None])
    sums = total * rescale
    row_sum = tl.sum(sums, 1)
    local = tl.arange(0, HEADS)
    valid = first_head + local < head_limit
    if empty is not None:
        acting = valid
        if plan_rows is not None:
            acting = acting & (tl.load(plan_rows + batch) <= 0)
        own = empty + batch * empty_batch + (first_head + local) * empty_head
        row_sum += tl.exp2(tl.load(own, mask=acting, other=float("-inf")) - highest)
    inverse = 1.0 / tl.where(row_sum > 0.0, row_sum, 1.0)
    mass = sums * inverse[:, None]

    head = batch * heads + first_head + local
    classes = tl.arange(0, CLASS_SLOTS)[None, :]
    factors = tl.full((HEADS, CLASS_SLOTS), 1.0, tl.float32)
    if moved is not None:
        allowed_rows = valid
        if rule_heads is not None:
            allowed_rows = allowed_rows & (tl.load(rule_heads + head, mask=valid, other=0) != 0)
        if rule_rows is not None:
            allowed_rows = allowed_rows & (tl.load(rule_rows + batch) <= 0)
        extra = 0.0
        if extra_mass is not None:
            extra = tl.load(extra_mass + batch)
        factors, handed = rule_factors(
            mass, classes, allowed_rows, extra, moved, max_sink_share, min_image_mass, STRICT
        )
        if moved_out is not None:
            tl.store(moved_out + head, handed, mask=valid)
    if class_gain is not None:
        named = valid[:, None] & (classes < gain_classes)
        gains = tl.load(class_gain + head[:, None] * gain_classes + classes, mask=named, other=1.0).to(tl.float32)
        if plan_rows is not None:
            gains = tl.where(tl.load(plan_rows + batch) <= 0, gains, 1.0)
        factors = factors * gains
    if head_gain is not None:
        factors = factors * tl.load(head_gain + head, mask=valid, other=1.0).to(tl.float32)[:, None]
    if mass_out is not None:
        tl.store(
            mass_out + head[:, None] * mass_classes + classes, mass, mask=valid[:, None] & (classes < mass_classes)
        )

    column = tl.arange(0, PADDED)
    place = head[:, None] * SIZE + column[None, :]
    inside = valid[:, None] & (column[None, :] < SIZE)
    per_row = tl.reshape(factors * rescale * inverse[:, None], (HEADS * CLASS_SLOTS,))
    edited = tl.sum(tl.reshape(acc * per_row[:, None], (HEADS, CLASS_SLOTS, PADDED)), 1)
    tl.store(output + place, edited.to(output.dtype.element_ty), mask=inside)
    if blinded_out is not None:
        text = (classes != 2) & (classes != 3)
        text_sum = tl.sum(tl.where(text, sums, 0.0), 1)
        kept = tl.where(text, rescale / tl.where(text_sum > 0.0, text_sum, 1.0)[:, None], 0.0)
        per_row = tl.reshape(kept, (HEADS * CLASS_SLOTS,))
        blinded = tl.sum(tl.reshape(acc * per_row[:, None], (HEADS, CLASS_SLOTS, PADDED)), 1)
        tl.store(blinded_out + place, blinded.to(blinded_out.dtype.element_ty), mask=inside)
