"""From a layer on, a second stream sees no key that it attended to too much, or too little, in the layer before."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlm_heads.attached.branched_stream import require_hideable
from vlm_heads.attached.stream_edit import SecondStreamCall, StreamEdit
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.toolkit.row_attention import kept_keys, row_weights, seen_keys


@dataclass(frozen=True)
class ClosedKeys(StreamEdit):
    """Closes keys to every row in the layers from `start` on, chosen anew whenever a token is predicted.

    Attributes:
        start: the first layer in which they are closed; the one before it tells which.
    """

    start: int

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return frozenset(range(self.start - 1, anatomy.depth))

    def check(self, anatomy: Anatomy) -> None:
        super().check(anatomy)
        if not 1 <= self.start < anatomy.depth:
            raise BadOption(f"start={self.start}: a layer from 1 to {anatomy.depth - 1} is needed in this model")
        require_hideable(anatomy, self.start - 1)

    @abstractmethod
    def closed(self, call: SecondStreamCall, weights: Tensor, seen: Tensor) -> Tensor:
        """Return bool `[B, T]`: the keys that are closed.

        Args:
            call: of the layer before `start`.
            weights: `[B, T]`, what its last row gives each key, the mean over heads; 0 where a layer holds it no more.
            seen: bool `[B, T]`, keys that are neither padding nor taken back.
        """
        ...

    def attend(self, call: SecondStreamCall) -> Tensor:
        if call.layer == self.start - 1:
            weights = row_weights(call).mean(dim=1)
            weights = pad(weights, (call.key_map.length - weights.shape[1], 0))
            call.memory["closed"] = self.closed(call, weights, kept_keys(call))
            return call.plain()
        return call.plain_under(without_keys(call, call.memory["closed"]))


def without_keys(call: SecondStreamCall, closed: Tensor) -> Tensor:
    """Return a call's mask with keys closed, bool `[B, T]`, of the kind that the call has.

    A row that would see nothing sees itself: it matters to no other row, as its own key is closed.
    """
    rows, keys = call.query.shape[2], call.key.shape[2]
    seen = seen_keys(call)
    still = seen & ~closed[:, None, None, closed.shape[1] - keys :]
    itself = torch.eye(keys, dtype=torch.bool, device=seen.device)[keys - rows :]
    still = still | (seen & itself & ~still.any(dim=-1, keepdim=True))
    if call.mask is None or call.mask.dtype is torch.bool:
        return still
    return torch.zeros_like(still, dtype=call.mask.dtype).masked_fill(~still, torch.finfo(call.mask.dtype).min)


def beyond_lowest(weights: Tensor, among: Tensor, kept: Tensor) -> Tensor:
    """Return bool `[..., T]`: those of some keys that are not among the lowest.

    Args:
        weights: `[..., T]`; where they are equal, the earlier key is the lower.
        among: bool, the keys that are compared; it broadcasts to `weights`.
        kept: int64, how many are lowest; it broadcasts to `weights`.
    """
    order = weights.masked_fill(~among, torch.inf).argsort(dim=-1, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return among & (torch.empty_like(order).scatter_(-1, order, places) >= kept)
