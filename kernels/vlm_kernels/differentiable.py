"""Edited attention that gradients flow through: the specification's operations, in the precision of the call.

The other backends write over their weights, and Triton's kernels have no backward. Rows before the first edited one
stay stock attention.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from vlm_kernels import reference
from vlm_kernels.plan import AttentionPlan, Aux
from vlm_kernels.torch_backend import first_edited_row


def records(*tensors: Tensor) -> bool:
    """Whether a gradient is taken through a computation on these tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    plan: AttentionPlan,
    key_class: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    want: Collection[str] = (),
    plain_output: Tensor | None = None,
) -> tuple[Tensor, Aux]:
    """Return the edited output `[B, Hq, Tq, D]`, and what was asked for of `Aux`; see `vlm_kernels.attend`."""
    wide = torch.promote_types(query.dtype, torch.float32)
    rows = query.shape[2]
    first = first_edited_row(plan) if plain_output is not None and not {"mass", "blinded"} & set(want) else 0
    if plain_output is not None and not plan.edits_weights:
        first = rows
    if first == 0:
        return reference.attend(
            query, key, value, plan=plan, key_class=key_class, mask=mask, scale=scale, want=want, dtype=wide
        )
    assert plain_output is not None
    before = plain_output[:, :, :first]
    if plan.head_gain is not None:
        before = (before * plan.head_gain[:, :, None, None]).to(query.dtype)
    if first >= rows:
        return before, Aux(moved=query.new_zeros(query.shape[:3], dtype=wide) if "moved" in want else None)
    if mask is None:
        mask = torch.ones(rows, key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
    after, seen = reference.attend(
        query[:, :, first:],
        key,
        value,
        plan=_later(plan, first),
        key_class=key_class,
        mask=mask if mask.shape[2] == 1 else mask[:, :, first:],
        scale=scale,
        want=want,
        dtype=wide,
    )
    moved = None if seen.moved is None else torch.nn.functional.pad(seen.moved, (first, 0))
    return torch.cat([before, after], dim=2), Aux(moved=moved)


def _later(plan: AttentionPlan, first: int) -> AttentionPlan:
    """Return the plan for the rows from `first` on, which are counted from 0 there."""
    rule = plan.redistribution
    if rule is not None and rule.rows is not None:
        rule = replace(rule, rows=(rule.rows - first).clamp_min(0))
    rows = None if plan.rows is None else (plan.rows - first).clamp_min(0)
    empty = plan.empty_key
    if empty is not None and empty.shape[2] > 1:
        empty = empty[:, :, first:]
    return replace(plan, redistribution=rule, rows=rows, empty_key=empty)
