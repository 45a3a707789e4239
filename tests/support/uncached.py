"""A model asked without a cache: the prompt and the answer so far, everything computed anew."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.families import Inputs

_GROWING = ("token_type_ids", "mm_token_type_ids")


def grown(model: PreTrainedModel, inputs: Inputs, answer: Tensor) -> dict[str, Any]:
    """Return the inputs of a forward over the prompt and the answer so far `[B, t]`."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    # PaliGemma marks what is answered, and looks at it causally
    kind = int(model.config.model_type == "paligemma")
    longer = {name: torch.cat([inputs[name], answer * 0 + kind], 1) for name in _GROWING if name in inputs}
    if "cross_attention_mask" in inputs:  # a new position reads the tiles that the last one read
        last = inputs["cross_attention_mask"][:, -1:].expand(-1, answer.shape[1], -1, -1)
        longer["cross_attention_mask"] = torch.cat([inputs["cross_attention_mask"], last], 1)
    return {
        **inputs,
        **longer,
        "input_ids": torch.cat([ids, answer], 1),
        "attention_mask": torch.cat([mask, torch.ones_like(answer)], 1),
        "use_cache": False,
    }


def uncached(model: PreTrainedModel, inputs: Inputs, answer: Tensor) -> Tensor:
    """Return token logits `[B, V]` after the prompt and the answer so far."""
    with torch.no_grad():
        logits: Tensor = model(**grown(model, inputs, answer)).logits
    return logits[:, -1].float()
