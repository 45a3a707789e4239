"""One gain per head for every image: the plan that methods of static gains make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from vlm_kernels import AttentionPlan

if TYPE_CHECKING:
    from vlm_heads.call import AttentionCall


def static_plan(call: AttentionCall) -> AttentionPlan | None:
    """Return a plan with the layer's gains, made once a generation; None where all of them are 1.

    The gains stand in `call.memory["gains"]`, float32 `[L, Hq]`. Rows without an image stay as they are.
    """
    known: AttentionPlan | None = call.memory.get(call.layer)
    if known is not None or not call.prefill:
        return known
    gains = call.memory["gains"][call.layer]
    if bool((gains == 1).all()):
        return None
    gains, has_image = gains.to(call.query.device), call.key_map.has_image[:, None]
    call.tally.note((gains != 1) & has_image)
    # in float32: a half-precision output is rounded once, as a folded weight is
    plan = AttentionPlan(head_gain=torch.where(has_image, gains, 1.0))
    call.memory[call.layer] = plan
    return plan
