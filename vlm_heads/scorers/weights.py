"""Attention's weights, written out."""

from __future__ import annotations

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan, attend

from vlm_heads.call import AttentionCall


def all_weights(call: AttentionCall) -> Tensor:
    """Return float `[B, Hq, Tq, Tk]`: attention's weights, by attending to values that tell their position."""
    keys = call.key.shape[2]
    telling = torch.eye(keys, dtype=call.value.dtype, device=call.value.device)
    output, _ = attend(
        call.query,
        call.key,
        telling.expand(call.key.shape[0], call.key.shape[1], -1, -1),
        plan=AttentionPlan(),
        key_class=call.key_class(),
        mask=call.mask,
        scale=call.scale,
        backend="torch",
    )
    return output.float()
