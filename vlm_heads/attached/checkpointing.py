"""Attention of no generation: layers that `backward` runs a second time above all. They are refused.

What an intervention does depends on the forward that a layer belongs to. A layer that `backward` runs again on its own
belongs to none: it would be plain, and its gradient that of another function.
"""

from __future__ import annotations

import torch
from torch import nn

from vlm_heads.errors import UnsupportedGeneration

_REMEDY = (
    "so its gradient would be the plain model's: leave it off inside attach, by model.gradient_checkpointing_disable() "
    "or, where nothing is trained, by model.eval()"
)


def refuse_checkpointing(decoder: nn.Module) -> None:
    """Raise `UnsupportedGeneration` if a part of the decoder would be run again by `backward`."""
    if not (decoder.training or torch.is_grad_enabled()):  # as generate runs a model
        return
    for module in decoder.modules():
        flagged = getattr(module, "gradient_checkpointing", False) and module.training
        if flagged or type(module).__name__ == "CheckpointWrapper":  # torch's own wrapper, as FSDP's users apply it
            raise UnsupportedGeneration(
                f"{type(module).__name__} checkpoints its activations: backward would run it again with nothing "
                f"attached, {_REMEDY}"
            )


def refuse_stray() -> None:
    """Raise `UnsupportedGeneration` where attention runs, and no forward that is followed."""
    if torch._C._current_graph_task_id() != -1:  # inside backward: an attention is computed again there, by itself
        raise UnsupportedGeneration(
            f"backward runs a checkpointed layer again, and nothing is known there of its generation, {_REMEDY}"
        )
    raise UnsupportedGeneration(
        "the language model ran outside a forward of the model that was attached, as by model.forward(...) or a "
        "wrapper that goes round it, so it is not known whose generation this is: call model(...) or "
        "model.generate(...)"
    )
