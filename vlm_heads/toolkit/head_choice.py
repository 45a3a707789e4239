"""Which heads of a layer a method takes: by their own sample, from a profile, by image mass, or as a control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlm_heads.call import AttentionCall
from vlm_heads.toolkit import sensitivity
from vlm_heads.toolkit.row_attention import image_keys, row_weights

HeadChoice = Literal["vhd", "fixed", "mass", "all", "bottom", "random"]
NEEDS_IMAGE_FREE_PASS = ("vhd", "bottom")


@dataclass(frozen=True)
class HeadChooser:
    """Chooses the heads of a layer at prefill (He et al. 2025, Eq. 4-7, and controls).

    Attributes:
        how: "vhd" takes the heads above the layer's median VHD, by each row's own image or by the profile given to
            `attach`; "fixed" is the same and insists on a profile. "mass" takes those above the median of image mass at
            the last prompt position; "all" takes all. The controls: "bottom" takes as many heads with the lowest VHD,
            "random" takes half of the heads, drawn by seed and layer.
        outlier_filter: leave out heads of "negative vision sensitivity" (Eq. 6).
        squared_norm: square the norm in Eq. 6.
        unbiased_std: divide by n - 1 in Eq. 6.
        seed: of the random control.
    """

    how: HeadChoice
    outlier_filter: bool = True
    squared_norm: bool = False
    unbiased_std: bool = True
    seed: int = 0

    def choose(self, call: AttentionCall) -> Tensor:
        """Return bool `[B, Hq]`: the heads taken on this layer, none in a row without image."""
        return self._chosen(call) & call.key_map.has_image[:, None]

    def select(self, call: AttentionCall, sighted: Tensor, blind: Tensor) -> Tensor:
        """Return bool `[B, Hq]` by head outputs `[B, Hq, D]` with and without the image; none in rows without one."""
        return self.between(sighted, blind) & call.key_map.has_image[:, None]

    def between(self, sighted: Tensor, blind: Tensor) -> Tensor:
        """Return bool `[..., Hq]` by head outputs `[..., Hq, D]` with the image and without it, whoever computed them.

        The way of choosing is "vhd", or "bottom" for as many heads of the other end.
        """
        awareness = sensitivity.vision_awareness(sighted, blind)
        return self._above_median(awareness, sensitivity.surge(blind, squared=self.squared_norm))

    def _chosen(self, call: AttentionCall) -> Tensor:
        rows, heads = call.query.shape[:2]
        if self.how == "all":
            return call.key_map.has_image[:, None].expand(rows, heads)
        if self.how == "random":
            # as many as lie above the median of distinct values
            count = torch.full((rows,), heads // 2, device=call.query.device)
            return sensitivity.random_heads(call.query[:, :, 0, 0], count, self.seed, call.layer)
        if self.how == "mass":
            return sensitivity.above_median((row_weights(call) * image_keys(call)[:, None]).sum(dim=-1))
        awareness, surges = head_awareness(call, squared=self.squared_norm)
        return self._above_median(awareness, surges).expand(rows, heads)

    def _above_median(self, awareness: Tensor, surges: Tensor | None) -> Tensor:
        filtered = awareness
        if self.outlier_filter and surges is not None:
            filtered = sensitivity.without_outliers(awareness, surges, unbiased=self.unbiased_std)
        chosen = sensitivity.above_median(filtered)
        # the control takes as many, the least aware by their unfiltered score
        return sensitivity.least_aware(awareness, chosen.sum(dim=-1)) if self.how == "bottom" else chosen


def head_awareness(call: AttentionCall, squared: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return VHD and TA `[B or 1, Hq]`, from the profile where there is one, else of each row's own image."""
    device = call.query.device
    if call.profile is not None:
        surges = call.profile.surges
        awareness = call.profile.scores[call.layer][None].to(device)
        return awareness, None if surges is None else surges[call.layer][None].to(device)
    blind = call.blind_output()
    return sensitivity.vision_awareness(call.sighted_output(), blind), sensitivity.surge(blind, squared=squared)
