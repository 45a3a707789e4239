"""fold_gains(): a static profile written into the output projections, after which an ordinary model carries it.

A head's output enters the output projection through columns of its own, so a fixed gain on the head scales those
columns. The projection's bias belongs to no head and stays. Grouped queries change nothing: the columns are those of
query heads. Only a gain that does not depend on the image can be folded. VHR's gains depend on it, so this is not VHR.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads.errors import BadProfile, UnsupportedModel
from vlm_heads.families import Anatomy, examine
from vlm_heads.profile import HeadProfile
from vlm_heads.wrappers import unwrapped

FOLD_MARK = "vlm_heads_fold"  # entry of a folded model's config
FOLDABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def fold_gains(model: nn.Module, profile_or_gains: HeadProfile | Tensor) -> None:
    """Multiply the columns of the output projections by each head's gain, in place and for good.

    Afterwards the model, unattached, computes what `StaticGains` computes attached. Gains that are powers of two are
    exact in every dtype, while no weight leaves its range. Any other gain rounds each weight once, to the weight's own
    precision. The model's config is marked, so nothing is folded twice.

    Args:
        model: a vision-language model of transformers with its weights in memory.
        profile_or_gains: a profile with gains, or the gains themselves, `[L, Hq]`.

    Raises:
        BadProfile: if there are no gains, or all are 1, or they do not fit the model.
        UnsupportedModel: if weights are quantised, folded already, or not in memory; nothing was changed then.
    """
    model = unwrapped(model)
    anatomy = examine(model)
    gains = gains_of(profile_or_gains, anatomy)
    refuse_config(model.config.to_dict())  # type: ignore[union-attr, operator]
    weights = {layer: _weight(anatomy, layer) for layer in changed_layers(gains)}
    if len({weight.data_ptr() for weight in weights.values()}) < len(weights):
        raise UnsupportedModel(f"{anatomy.model_type}: layers share an output projection, so each cannot have its own")
    for layer, weight in weights.items():
        refuse_overflow(weight, gains[layer], f"layer {layer}")
    with torch.no_grad():
        for layer, weight in weights.items():
            weight.copy_(scaled_columns(weight, gains[layer]))
    setattr(model.config, FOLD_MARK, mark(gains))


def gains_of(profile_or_gains: HeadProfile | Tensor, anatomy: Anatomy) -> Tensor:
    """Return float32 gains `[L, Hq]` that fit a model and change something.

    Raises:
        BadProfile: if they do not.
    """
    profile = profile_or_gains
    if isinstance(profile, Tensor):
        profile = HeadProfile(scores=torch.zeros(profile.shape), gains=profile)
    profile.check(anatomy)
    if profile.gains is None:
        raise BadProfile("the profile holds scores and no gains; `vlm-heads calibrate` makes one with gains")
    if not changed_layers(profile.gains):
        raise BadProfile("every gain of the profile is 1, so there is nothing to fold")
    return profile.gains


def changed_layers(gains: Tensor) -> list[int]:
    """Return the layers in which some gain is not 1."""
    return [int(layer) for layer in (gains != 1).any(dim=1).nonzero()[:, 0]]


def scaled_columns(weight: Tensor, gains: Tensor) -> Tensor:
    """Return an output projection with each head's columns times its gain, each weight rounded once.

    Args:
        weight: `[width, Hq * D]`.
        gains: float32 `[Hq]`.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    columns = gains.to(weight.device, wide).repeat_interleave(weight.shape[1] // len(gains))
    return (weight.to(wide) * columns).to(weight.dtype)


def refuse_overflow(weight: Tensor, gains: Tensor, where: str) -> None:
    """Raise `BadProfile` if a weight times its gain leaves the range of its dtype."""
    if not bool(torch.isfinite(scaled_columns(weight.detach(), gains)).all()):
        raise BadProfile(f"{where}: a weight times its gain leaves the range of {weight.dtype}; take smaller gains")


def refuse_config(config: Mapping[str, Any]) -> None:
    """Raise `UnsupportedModel` if a model's config says that its weights are quantised or folded already."""
    if config.get(FOLD_MARK):
        raise UnsupportedModel("gains are folded into this model already: fold into the original")
    quantised = config.get("quantization_config") or dict(config.get("text_config") or {}).get("quantization_config")
    if quantised:
        method = dict(quantised).get("quant_method", "an unnamed method")
        raise UnsupportedModel(
            f"the weights are quantised ({method}), and a gain would not survive their rounding: fold into the "
            "original and quantise the result"
        )


def mark(gains: Tensor) -> dict[str, Any]:
    """Return what a folded model's config says about itself."""
    return {"gains_sha256": hashlib.sha256(gains.numpy().tobytes()).hexdigest(), "heads": int((gains != 1).sum())}


def _weight(anatomy: Anatomy, layer: int) -> Tensor:
    """Return a layer's output projection `[width, Hq * D]`.

    Raises:
        UnsupportedModel: if it is no plain matrix in memory.
    """
    projection = anatomy.projections[layer]
    where = f"{anatomy.model_type}, layer {layer}"
    if not isinstance(projection, nn.Linear) or torch.nn.utils.parametrize.is_parametrized(projection):
        raise UnsupportedModel(
            f"{where}: the output projection is a {type(projection).__name__} and no plain matrix; merge adapters first"
        )
    weight = projection.weight
    if weight.dtype not in FOLDABLE or weight.shape[1] % anatomy.heads:
        raise UnsupportedModel(
            f"{where}: the output projection is {weight.dtype} {list(weight.shape)}; a matrix that is "
            "not quantised is needed"
        )
    if weight.is_meta:
        raise UnsupportedModel(f"{where}: the weights are offloaded; fold the checkpoint on disk with `vlm-heads fold`")
    return weight
