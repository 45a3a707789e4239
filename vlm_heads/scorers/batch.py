"""One plain forward over a batch of prompts, watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from vlm_heads.attach import attach
from vlm_heads.attached.watcher import Watcher
from vlm_heads.models.images import load_image
from vlm_heads.models.prompts import model_inputs
from vlm_heads.scorers.example import Example


def batch_inputs(model: nn.Module, processor: Any, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the inputs of a forward over the examples' prompts, padded on the left."""
    pictures, prompts = [load_image(one.image) for one in examples], [one.prompt for one in examples]
    return model_inputs(model, processor, pictures, prompts)


def watched_forward(model: nn.Module, inputs: Mapping[str, Any], watcher: Watcher) -> Any:
    """Run one forward that a watcher sees, without a cache, and return what the model gives."""
    with torch.inference_mode(), attach(model, watch=[watcher]):
        return model(**{**inputs, "use_cache": False})
