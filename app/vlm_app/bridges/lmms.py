"""How lmms-eval finds us: the entry point of its group `lmms_eval.models`; nothing heavy is imported here."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return the `ModelManifest` of `--model vlm_heads`; called by lmms-eval alone, when it lists its models."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vlm_heads", simple_class_path="vlm_app.bridges.lmms_model.VlmHeads")
