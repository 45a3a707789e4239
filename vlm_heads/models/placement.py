"""Where a model takes its inputs: told by its weights, or by accelerate's hooks where the weights are offloaded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from vlm_heads.errors import UnsupportedModel


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


def require_one_device(modules: Iterable[nn.Module]) -> None:
    """Raise `UnsupportedModel` if modules compute on more than one device; where their weights lie does not matter."""
    devices = sorted({str(input_device(module)) for module in modules})
    if len(devices) > 1:
        raise UnsupportedModel(
            f"the decoder's layers compute on {' and '.join(devices)}, and what is known about the keys lies on one "
            "device: place the language model on one device with a device_map, and offload what does not fit"
        )
