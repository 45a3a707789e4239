"""One entrance for every backend: check the call, choose who computes it, call it."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from vlm_kernels import differentiable, reference, torch_backend
from vlm_kernels.differentiable import records
from vlm_kernels.plan import PER_KEY, AttentionPlan, Aux
from vlm_kernels.torch_decode import PreparedDecode

Backend = Literal["auto", "reference", "torch", "triton"]
BACKENDS: tuple[Backend, ...] = ("auto", "reference", "torch", "triton")
WANTS = ("mass", "blinded", "moved")

_log = logging.getLogger(__name__)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    plan: AttentionPlan,
    key_class: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
    want: Collection[str] = (),
    plain_output: Tensor | None = None,
) -> tuple[Tensor, Aux]:
    """Return attention edited by the plan `[B, Hq, Tq, D]`, and what was asked for of `Aux`.

    With a head gain alone, every backend but the reference returns stock attention times the gain; where the gain is 1,
    that is stock attention bit for bit. Rows whose keys are all hidden come out as 0.

    Args:
        query: `[B, Hq, Tq, D]`.
        key: `[B, Hkv, Tk, D]`, not repeated for grouped queries; `Hq` is a multiple of `Hkv`.
        value: `[B, Hkv, Tk, D]`.
        plan: what to change.
        key_class: int8 `[B, Tk]`, see `KeyClass`; needed by redistribution, class gains, "mass" and "blinded". Keys
            below zero are hidden on edited rows; on the other rows of a prefill, and where a plan has no more than a
            head gain and head sources, the mask has to hide them.
        mask: as transformers passes it: None (several rows are causal, counted from the first key, and keys beyond
            the last row are an unused cache; a single row sees all keys), bool `[B or 1, 1 or Hq, Tq, Tk]` with True
            where a key is seen, or floating point and added to the logits.
        scale: multiplies the logits; None is `D ** -0.5`.
        backend: "auto" takes Triton on a GPU that can and PyTorch elsewhere. A backend named is the one used.
        want: any of "mass", "blinded" and "moved". The first two need every row of a prefill, not its tail only.
        plain_output: stock attention's own output for this call, where the caller has it already; not written to.

    Raises:
        ValueError: if shapes do not fit each other, a key class is missing, or a name is unknown.
        RuntimeError: if Triton is asked for by name and cannot do this call, as where gradients are taken.
    """
    _check_names(backend, want)
    if mask is None and 1 < query.shape[2] < key.shape[2]:
        key, value, key_class, plan = _without_unused_cache(query.shape[2], key, value, key_class, plan)
    _check_shapes(query, key, value, plan, key_class, mask, want)
    if backend == "reference":  # by itself, so that it also specifies what is prepared here
        return reference.attend(query, key, value, plan=plan, key_class=key_class, mask=mask, scale=scale, want=want)
    if plan.head_source is not None:
        query, key, value = _with_heads_of(plan.head_source, query, key, value)
        plan, plain_output = replace(plan, head_source=None), None
    if records(query, key, value):
        if backend == "triton":
            raise RuntimeError(
                "backend='triton' has no backward: use backend='auto' or 'torch' where gradients are taken"
            )
        call = differentiable.attend
    elif _takes_triton(query, value, backend) and (plan.edits_weights or want):
        from vlm_kernels import triton_backend

        call = triton_backend.attend
    else:
        call = torch_backend.attend
    return call(
        query,
        key,
        value,
        plan=plan,
        key_class=key_class,
        mask=mask,
        scale=scale,
        want=want,
        plain_output=plain_output,
    )


def prepare_decode(
    query: Tensor, key: Tensor, value: Tensor, *, plan: AttentionPlan, key_class: Tensor, backend: Backend = "auto"
) -> PreparedDecode | None:
    """Return a plan prepared for decode steps that only add generated keys; None where each step is left to `attend`.

    Plans are prepared for a CPU, where the number of operations decides what a step of a small model costs. Nothing is
    prepared for a named backend other than PyTorch, or for a plan that changes logits key by key.

    Args:
        query: `[B, Hq, 1, D]` of a step, whose shape and dtype all later ones have.
        key: `[B, Hkv, T, D]` of that step.
        value: `[B, Hkv, T, D]` of that step.
        plan: what to change.
        key_class: int8 `[B, T]`, see `KeyClass`.
        backend: as in `attend`.

    Raises:
        ValueError: if shapes do not fit each other or a name is unknown.
    """
    _check_names(backend, ())
    if backend not in ("auto", "torch") or query.shape[2] != 1 or not PreparedDecode.takes(plan, query.device):
        return None
    if records(query, key, value):  # a ready plan writes over its weights
        return None
    _check_shapes(query, key, value, plan, key_class, None, ())
    return PreparedDecode(plan, key_class, query.shape[1], query.dtype)


def _check_names(backend: str, want: Collection[str]) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}")
    unknown = sorted(set(want) - set(WANTS))
    if isinstance(want, str) or unknown:
        raise ValueError(f"want takes a tuple of {', '.join(WANTS)}, but {want!r} was given")


def _check_shapes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    key_class: Tensor | None,
    mask: Tensor | None,
    want: Collection[str],
) -> None:
    batch, heads, rows, size = query.shape
    keys = key.shape[2]
    if heads % key.shape[1] or key.shape[0] != batch or key.shape[3] != size or value.shape[:3] != key.shape[:3]:
        raise ValueError(f"query {list(query.shape)}, key {list(key.shape)}, value {list(value.shape)} do not fit")
    _check_fit("key_class", key_class, (batch, keys))
    _check_fit("mask", mask, (batch, heads, rows, keys), broadcast=3)
    _check_fit("plan.head_gain", plan.head_gain, (batch, heads))
    if plan.changes_keys:
        for name in PER_KEY:
            _check_fit(f"plan.{name}", getattr(plan, name), (batch, heads, keys), broadcast=2)
    if plan.empty_key is not None:
        _check_fit("plan.empty_key", plan.empty_key, (batch, heads, rows), broadcast=3)
    if plan.head_source is not None:
        _check_fit("plan.head_source", plan.head_source, (batch, heads), broadcast=1)
    if plan.class_gain is not None:
        _check_fit("plan.class_gain", plan.class_gain, (batch, heads, plan.class_gain.shape[-1]))
    _check_fit("plan.rows", plan.rows, (batch,))
    if plan.redistribution is not None:
        _check_fit("redistribution.heads", plan.redistribution.heads, (batch, heads))
        _check_fit("redistribution.rows", plan.redistribution.rows, (batch,))
    needs_classes = plan.moves_weight or plan.class_gain is not None or "mass" in want or "blinded" in want
    if needs_classes and (key_class is None or key_class.dtype is not torch.int8):
        raise ValueError("this plan needs key_class: int8 [B, Tk], the class of every key (see KeyClass)")


def _check_fit(name: str, given: Tensor | None, needed: tuple[int, ...], broadcast: int = 0) -> None:
    """Raise unless a tensor has the needed shape; its first `broadcast` dimensions may be 1 instead."""
    if given is None or given.shape == needed:
        return
    fits = given.dim() == len(needed) and all(
        have == need or (have == 1 and place < broadcast)
        for place, (have, need) in enumerate(zip(given.shape, needed, strict=True))
    )
    if not fits:
        raise ValueError(f"{name} is {list(given.shape)} and must be {list(needed)} for this query and these keys")


def _without_unused_cache(
    rows: int, key: Tensor, value: Tensor, key_class: Tensor | None, plan: AttentionPlan
) -> tuple[Tensor, Tensor, Tensor | None, AttentionPlan]:
    """Cut a static cache to its filled part, as transformers does at prefill."""
    stated = {name: given for name in PER_KEY if (given := getattr(plan, name)) is not None}
    if stated:
        plan = replace(plan, **{name: given[..., :rows] for name, given in stated.items()})
    return key[:, :, :rows], value[:, :, :rows], None if key_class is None else key_class[:, :rows], plan


def _with_heads_of(source: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return states under which each head attends with the logits of its source; no key head is shared any more."""
    groups = query.shape[1] // key.shape[1]
    index = source.to(query.device)[:, :, None, None]
    query, key = torch.take_along_dim(query, index, dim=1), torch.take_along_dim(key, index // groups, dim=1)
    return query, key, value.repeat_interleave(groups, dim=1)


def _takes_triton(query: Tensor, value: Tensor, backend: str) -> bool:
    if backend == "torch" or (backend == "auto" and not query.is_cuda):
        return False
    refusal = _refusal(query.device, query.dtype, query.shape[-1], value.shape[-1])
    if refusal is None:
        return True
    if backend == "triton":
        raise RuntimeError(f"backend='triton' cannot do this call: {refusal}; use backend='auto' or 'torch'")
    _say_once(refusal)
    return False


@functools.cache
def _refusal(device: torch.device, dtype: torch.dtype, size: int, value_size: int) -> str | None:
    """Return why Triton cannot take a call of this kind, or None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    from vlm_kernels import triton_backend

    return triton_backend.refusal(device, dtype, size, value_size)


@functools.cache
def _say_once(refusal: str) -> None:
    _log.info("attention edits run in PyTorch, not in Triton: %s", refusal)
