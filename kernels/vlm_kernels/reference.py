"""The specification: attention with edits in plain PyTorch, every weight materialised, computed in float64.

Slow on purpose. `torch_backend.py` and the Triton kernels are right when they agree with this file. Gradients flow
through it.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from vlm_kernels.plan import AttentionPlan, Aux, KeyClass, Redistribution


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
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Aux]:
    """Return the edited output `[B, Hq, Tq, D]` in the query's dtype, and what was asked for of `Aux`.

    Arguments as in `vlm_kernels.attend`, which also checks them; `dtype` is that of the computation.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (states.to(dtype).repeat_interleave(groups, dim=1) for states in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if key_class is None:
        key_class = torch.full((key.shape[0], key.shape[2]), int(KeyClass.TEXT), dtype=torch.int8, device=key.device)

    logits = query.to(dtype) @ key.transpose(-1, -2) * scale
    if plan.head_source is not None:
        logits = torch.take_along_dim(logits, plan.head_source[:, :, None, None], dim=1)
    rows = rows_from(plan.rows, logits.shape[2], logits.device)[..., None]
    logits = counted(boosted(logits, plan), plan, rows)
    weights = masked_softmax(logits, mask, key_class, None if plan.empty_key is None else plan.empty_key * rows[..., 0])
    mass = class_mass(weights, key_class, plan.classes)
    factors, moved = class_factors(mass, key_class, plan)
    edited = weights * factors.gather(-1, _as_index(key_class, weights))
    gain = 1.0 if plan.value_gain is None else torch.where(rows, plan.value_gain.to(dtype)[:, :, None, :], 1.0)
    output = edited * gain @ value
    if plan.head_gain is not None:
        output = output * plan.head_gain.to(dtype)[:, :, None, None]
    return output.to(query.dtype), Aux(
        mass=mass.to(_mass_dtype(query)) if "mass" in want else None,
        blinded=blinded(weights, value, key_class, gain).to(query.dtype) if "blinded" in want else None,
        moved=moved.to(_mass_dtype(query)) if "moved" in want else None,
    )


def boosted(logits: Tensor, plan: AttentionPlan) -> Tensor:
    """Return `z + boost * |z|` on the plan's rows (PAI, Liu et al. 2024) and the logits as they are elsewhere.

    A factor comes first: there `z` is what it has made of the logit (ClearSight, Yin et al. 2025).
    """
    if plan.logit_factor is not None:
        rows = rows_from(plan.rows, logits.shape[2], logits.device)[..., None]
        logits = torch.where(rows, logits * plan.logit_factor.to(logits.dtype)[:, :, None, :], logits)
    if plan.logit_boost is None:
        return logits
    rows = rows_from(plan.rows, logits.shape[2], logits.device)[..., None]
    return logits + rows * plan.logit_boost.to(logits.dtype)[:, :, None, :] * logits.abs()


def counted(logits: Tensor, plan: AttentionPlan, rows: Tensor) -> Tensor:
    """Return logits under which softmax counts each key as often as the plan says, and one of weight 0 not at all."""
    if plan.key_weight is None:
        return logits
    return torch.where(rows, logits + plan.key_weight.to(logits.dtype).log()[:, :, None, :], logits)


def masked_softmax(logits: Tensor, mask: Tensor | None, key_class: Tensor, empty_key: Tensor | None = None) -> Tensor:
    """Return weights over the visible keys, each row summing to 1, or to 0 where no key is visible.

    Without a mask several query rows are causal, the first row seeing the first key only, and a single row sees all.
    An empty key `[B or 1, Hq or 1, Tq or 1]` is one more column of softmax, whose weight is left out.
    """
    rows, keys = logits.shape[-2:]
    if mask is None:
        mask = torch.ones(rows, keys, dtype=torch.bool, device=logits.device)
        mask = mask.tril()[None, None] if rows > 1 else mask[None, None]
    if mask.dtype is not torch.bool:
        logits = logits + mask.to(logits.dtype)
        mask = torch.ones_like(mask, dtype=torch.bool)
    logits = logits.masked_fill(~(mask & (key_class >= 0)[:, None, None, :]), -torch.inf)
    alive = (logits > -torch.inf).any(-1, keepdim=True)
    logits = torch.where(alive, logits, 0.0)
    if empty_key is None:
        return logits.softmax(-1) * alive
    column = empty_key.to(logits.dtype).log()[..., None].expand(*logits.shape[:-1], 1)
    return torch.cat([logits, column], dim=-1).softmax(-1)[..., :-1] * alive


def class_mass(weights: Tensor, key_class: Tensor, classes: int) -> Tensor:
    """Return `m_g`, the weight of each class `[B, Hq, Tq, classes]`."""
    members = [(key_class == number)[:, None, None, :] for number in range(classes)]
    return torch.stack([(weights * member).sum(-1) for member in members], dim=-1)


def class_factors(mass: Tensor, key_class: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
    """Return what each class's weights are multiplied with `[B, Hq, Tq, classes]`, and the moved mass `[B, Hq, Tq]`."""
    factors, moved = torch.ones_like(mass), torch.zeros_like(mass[..., 0])
    if plan.redistribution is not None:
        rule = plan.redistribution
        share = rule.moved * selected(mass, key_class, rule)
        moved = share * (mass[..., KeyClass.TEXT_SINK] + mass[..., KeyClass.IMAGE_SINK])
        factors[..., KeyClass.TEXT_SINK] -= share
        factors[..., KeyClass.IMAGE_SINK] -= share
        image = mass[..., KeyClass.IMAGE]
        factors[..., KeyClass.IMAGE] += moved / torch.where(image > 0, image, 1.0)
    if plan.class_gain is not None:
        columns = plan.class_gain.shape[-1]
        rows = rows_from(plan.rows, mass.shape[2], mass.device)[..., None]
        factors[..., :columns] *= torch.where(rows, plan.class_gain.to(mass.dtype)[:, :, None, :], 1.0)
    return factors, moved


def selected(mass: Tensor, key_class: Tensor, rule: Redistribution) -> Tensor:
    """Return bool `[B, Hq, Tq]`: the heads and rows whose sinks hand weight on (VAR, section 4.2)."""
    sink, image = mass[..., KeyClass.IMAGE_SINK], mass[..., KeyClass.IMAGE]
    keys = ((key_class == KeyClass.IMAGE_SINK) | (key_class == KeyClass.IMAGE)).sum(-1)[:, None, None]
    allowed = rule.max_sink_share * (sink + image + rule.share_epsilon * keys)
    if rule.strict:
        chosen = (sink < allowed) & (sink + image > rule.min_image_mass)
    else:
        chosen = (sink <= allowed) & (sink + image >= rule.min_image_mass)
    chosen = chosen & (image > 0) & rows_from(rule.rows, mass.shape[2], mass.device)
    return chosen if rule.heads is None else chosen & rule.heads[:, :, None]


def rows_from(first: Tensor | None, rows: int, device: torch.device) -> Tensor:
    """Return bool `[B or 1, 1, rows]`: the query rows from each batch row's first edited row on."""
    numbers = torch.arange(rows, device=device)
    return (numbers >= 0)[None, None] if first is None else (numbers >= first.to(device)[:, None])[:, None]


def blinded(weights: Tensor, value: Tensor, key_class: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """Return the output over the keys that are no image, renormalised; 0 where there are none.

    `gain` multiplies the keys' values.
    """
    image = (key_class == KeyClass.IMAGE_SINK) | (key_class == KeyClass.IMAGE)
    rest = weights * ~image[:, None, None, :]
    total = rest.sum(-1, keepdim=True)
    return rest * gain @ value / torch.where(total > 0, total, 1.0)


def _as_index(key_class: Tensor, weights: Tensor) -> Tensor:
    return key_class.long().clamp_min(0)[:, None, None, :].expand_as(weights)


def _mass_dtype(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype is torch.float64 else torch.float32
