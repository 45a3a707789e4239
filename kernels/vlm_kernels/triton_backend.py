"""What Triton can take, and how its two kernels make up one call: decode, or stock attention and then its tail."""

from __future__ import annotations

from collections.abc import Collection

import torch
import triton
from torch import Tensor

from vlm_kernels import torch_backend, triton_decode, triton_tail
from vlm_kernels.plan import AttentionPlan, Aux
from vlm_kernels.triton_edit import Edit

HEAD_SIZES = (64, 80, 96, 128, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
OLDEST_CAPABILITY = (8, 0)
INTERPRETED = not isinstance(triton_decode.decode_kernel, triton.JITFunction)  # TRITON_INTERPRET=1 at import


def refusal(device: torch.device, dtype: torch.dtype, size: int, value_size: int) -> str | None:
    """Return why the kernels cannot take a call of this kind, or None where they can."""
    if size not in HEAD_SIZES or value_size != size:
        return f"head sizes {size} and {value_size} are not one of {HEAD_SIZES}"
    if dtype not in DTYPES:
        return f"{dtype} is not float16, bfloat16 or float32"
    if INTERPRETED:
        return None
    if device.type != "cuda":
        return f"tensors are on {device.type}, not on a CUDA device"
    capability = torch.cuda.get_device_capability(device)
    return None if capability >= OLDEST_CAPABILITY else f"compute capability {capability} is below {OLDEST_CAPABILITY}"


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
    """Return the edited output `[B, Hq, Tq, D]` and what was asked for of `Aux`; see `vlm_kernels.attend`.

    Decode is one kernel and never waits for the device. At prefill, stock attention computes the rows before the
    first edited one and the tail kernel the others.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    edit = Edit.from_plan(plan, key_class, mask, scale, want)
    if query.shape[2] == 1:
        output, mass, blinded, moved = triton_decode.decode(query, key, value, edit)
    else:
        first = 0 if {"mass", "blinded"} & set(want) else torch_backend.first_edited_row(plan)
        output = torch_backend.bulk_attention(query, key, value, mask, scale, first, plain_output)
        if plan.head_gain is not None:
            output[:, :, :first] *= plan.head_gain[:, :, None, None]
        mass, blinded, moved = triton_tail.tail(output, first, query, key, value, edit)
    if "moved" in want and not edit.want_moved:
        moved = query.new_zeros(query.shape[:3], dtype=torch.float32)
    return output, Aux(
        mass=mass if "mass" in want else None,
        blinded=blinded if "blinded" in want else None,
        moved=moved if "moved" in want else None,
    )
