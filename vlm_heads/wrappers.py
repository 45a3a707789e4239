"""The model inside a wrapper, where the wrapper runs it unchanged; others are refused with the call to use."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vlm_heads.errors import UnsupportedModel


def unwrapped(model: Any) -> Any:
    """Return the transformers model that runs in the end, which is the model itself where nothing wraps it.

    `torch.compile`'s wrapper, PEFT's for adapters inside the layers, and DistributedDataParallel call it as it is.

    Raises:
        UnsupportedModel: if a wrapper changes what the model is given, runs copies of it, or is not known.
    """
    while not isinstance(model, PreTrainedModel):
        model = _inside(model)
    return model


def _inside(model: Any) -> Any:
    name = type(model).__name__
    if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        return inner
    if hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
        _require_adapters(model)
        return model.get_base_model()
    if name == "DistributedDataParallel":
        return model.module
    raise UnsupportedModel(_instead(model, name))


def _require_adapters(model: Any) -> None:
    """Raise `UnsupportedModel` where PEFT puts learned positions before the prompt."""
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise UnsupportedModel(
            f"{type(config).__name__} puts learned positions before the prompt, so which position is the image's is "
            "not known; adapters inside the layers, as LoRA, work"
        )


def _instead(model: Any, name: str) -> str:
    """Return what to do about a thing that is no model, or a wrapper that is not known."""
    inner = getattr(model, "model", None)
    if not isinstance(model, nn.Module) and isinstance(inner, nn.Module):
        return f"{name} is no model and holds one: give its .model, as in attach(vlm.model, ...)"
    if isinstance(model, nn.Module):
        held = next((path for path, part in model.named_modules() if isinstance(part, PreTrainedModel)), None)
        if held:
            return (
                f"{name} goes round the model it wraps, or runs copies of it: give its .{held} and call "
                f".{held}.generate(...)"
            )
    return f"{name} is no transformers model; give one, as AutoModelForImageTextToText.from_pretrained returns it"
