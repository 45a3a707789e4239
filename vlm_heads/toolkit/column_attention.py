"""How much attention a prompt's positions receive, column by column of each head's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from vlm_kernels import KeyClass

if TYPE_CHECKING:
    from vlm_heads.call import AttentionCall


def column_sums(call: AttentionCall) -> Tensor:
    """Return float32 `[B, Hq, T]`: the weight that each of the T keys seen so far receives from other positions' rows.

    Rows are those of this call, padding left out. Heads are written out one after the other, so that the weights of one
    are held at a time.
    """
    rows, keys = call.query.shape[2], call.key_map.length
    groups = call.query.shape[1] // call.key.shape[1]
    present = (call.key_map.classes[:, keys - rows :] != KeyClass.PADDING)[..., None]
    own = torch.ones(rows, keys, dtype=torch.bool, device=present.device).triu(keys - rows).tril(keys - rows)
    scale = call.query.shape[-1] ** -0.5 if call.scale is None else call.scale
    sums = []
    for head in range(call.query.shape[1]):
        logits = call.query[:, head] @ call.key[:, head // groups, :keys].transpose(-1, -2)
        weights = _visible(call, head, logits.float() * scale).softmax(dim=-1)
        sums.append((weights * present).masked_fill(own, 0.0).sum(dim=1))
    return torch.stack(sums, dim=1)


def _visible(call: AttentionCall, head: int, logits: Tensor) -> Tensor:
    """Return logits `[B, Tq, T]` with hidden keys at the lowest number there is."""
    rows, keys = logits.shape[-2:]
    lowest = torch.finfo(logits.dtype).min
    if call.mask is None:
        hidden = torch.ones(rows, keys, dtype=torch.bool, device=logits.device).triu(keys - rows + 1)
        return logits.masked_fill(hidden, lowest)
    mask = call.mask[:, head if call.mask.shape[1] > 1 else 0, :, :keys]
    return logits.masked_fill(~mask, lowest) if mask.dtype is torch.bool else (logits + mask).clamp_min(lowest)
