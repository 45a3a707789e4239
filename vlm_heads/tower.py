"""Where the layers of a vision tower are, and their MLPs."""

from __future__ import annotations

from torch import nn

from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import MLP_NAMES, Anatomy


def tower_layers(model: nn.Module, anatomy: Anatomy) -> tuple[nn.Module, ...]:
    """Return the layers of a model's vision tower, in order: its longest list of layers beside the language model's.

    Raises:
        UnsupportedModel: if no list of layers with MLPs of their own is found, or the picture is encoded where
            generations are not followed.
    """
    if anatomy.quirks.blind_from_decoder:
        raise UnsupportedModel(
            f"{anatomy.model_type} generates past its own forward, so it is not known for which answer its vision "
            "tower runs"
        )
    inside_decoder = set(anatomy.decoder.modules())
    lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and one not in inside_decoder]
    found = [tuple(one) for one in lists if len(one) and all(_mlp(layer) is not None for layer in one)]
    if not found:
        raise UnsupportedModel(f"{anatomy.model_type} has no vision tower whose layers have MLPs of their own")
    return max(found, key=len)


def tower_mlps(model: nn.Module, anatomy: Anatomy) -> tuple[nn.Module, ...]:
    """Return the MLP of each layer of the vision tower; see `tower_layers`."""
    return tuple(mlp for layer in tower_layers(model, anatomy) if (mlp := _mlp(layer)) is not None)


def _mlp(layer: nn.Module) -> nn.Module | None:
    return next((module for name, module in layer.named_children() if name in MLP_NAMES), None)
