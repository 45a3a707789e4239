"""Where a model takes its inputs: told by its weights, or by accelerate's hooks where the weights are offloaded."""

from __future__ import annotations

import torch
from torch import nn


def input_device(model: nn.Module) -> torch.device:
    """Return the device that a model's inputs belong on.

    Offloaded weights lie on no device between two forwards; accelerate's hook on the module then says where it will
    run. A model spread over several devices takes its inputs on the first of them.
    """
    first = next(iter(model.parameters())).device
    if first.type != "meta":
        return first
    for module in model.modules():
        where = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if where is not None:
            return torch.device(where)
    return first
