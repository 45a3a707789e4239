"""Layers that `backward` runs a second time: nothing would be known there of the generation, so they are refused.

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


def refuse_recomputation() -> None:
    """Raise `UnsupportedGeneration` inside `backward`: an attention is computed again there, by itself."""
    if torch._C._current_graph_task_id() != -1:
        raise UnsupportedGeneration(
            f"backward runs a checkpointed layer again, and nothing is known there of its generation, {_REMEDY}"
        )
