"""The image keys that a second stream attends to least, and no others: what SID and one stream of CRoPS see."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from vlm_kernels import KeyClass

from vlm_heads.attached.closed_keys import ClosedKeys, beyond_lowest
from vlm_heads.attached.stream_edit import SecondStreamCall


@dataclass(frozen=True)
class LeastImageKeys(ClosedKeys):
    """Keeps the share of the image keys that are attended to least.

    Attributes:
        share: of each row's image keys; one at least is kept.
    """

    share: float

    def closed(self, call: SecondStreamCall, weights: Tensor, seen: Tensor) -> Tensor:
        classes = call.key_map.classes
        image = seen & ((classes == KeyClass.IMAGE) | (classes == KeyClass.IMAGE_SINK))
        kept = (self.share * image.sum(dim=1, keepdim=True)).round().clamp_min(1).long()
        return beyond_lowest(weights, image, kept)
