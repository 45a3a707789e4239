"""Which heads of a layer a method takes: by their own sample, from a profile, by image mass, or as a control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vlm_heads.toolkit import sensitivity
from vlm_heads.toolkit.row_attention import image_keys, row_weights

if TYPE_CHECKING:
    from vlm_heads.call import AttentionCall

HeadChoice = Literal["vhd", "fixed", "mass", "all", "bottom", "random"]
NEEDS_IMAGE_FREE_PASS = ("vhd", "bottom")


def choose_heads(call: AttentionCall, how: HeadChoice, *, outlier_filter: bool = True, seed: int = 0) -> Tensor:
    """Return bool `[B, Hq]`: the heads taken on this layer, none in a row without image. Asked at prefill only.

    Args:
        call: of the prompt.
        how: "vhd" takes the heads above the layer's median VHD (He et al. 2025, Eq. 4-7) by each row's own image, or by
            the profile where `attach` was given one; "fixed" is the same and insists on a profile; "mass" takes those
            above the median of image mass at the last prompt position; "all" takes all. The controls: "bottom" takes
            as many of the lowest VHD, "random" half of the heads, drawn by seed and layer.
        outlier_filter: leave out heads of "negative vision sensitivity" (Eq. 6).
        seed: of the random control.
    """
    rows, heads = call.query.shape[:2]
    device = call.query.device
    has_image = call.key_map.has_image[:, None]
    if how == "all":
        return has_image.expand(rows, heads)
    if how == "random":
        count = torch.full((rows,), heads // 2, device=device)
        return sensitivity.random_heads(torch.empty(rows, heads, device=device), count, seed, call.layer) & has_image
    if how == "mass":
        mass = (row_weights(call) * image_keys(call)[:, None]).sum(dim=-1)
        return sensitivity.above_median(mass) & has_image
    awareness, surges = head_awareness(call)
    filtered = awareness
    if outlier_filter and surges is not None:
        filtered = sensitivity.without_outliers(awareness, surges)
    chosen = sensitivity.above_median(filtered)
    if how == "bottom":
        chosen = sensitivity.least_aware(awareness, chosen.sum(dim=-1))
    return chosen & has_image


def head_awareness(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    """Return VHD and TA `[B or 1, Hq]`, from the profile where there is one, else of each row's own image."""
    device = call.query.device
    if call.profile is not None:
        surges = call.profile.surges
        awareness = call.profile.scores[call.layer][None].to(device)
        return awareness, None if surges is None else surges[call.layer][None].to(device)
    blind = call.blind_output()
    return sensitivity.vision_awareness(call.sighted_output(), blind), sensitivity.surge(blind)
