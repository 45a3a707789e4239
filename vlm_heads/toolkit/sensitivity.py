"""How much each head's output depends on the image: VHD, its outlier filter, and the choice of heads.

All from He et al., ACL 2025, arXiv 2412.13949; every function works on query heads, with grouped keys too.
"""

from __future__ import annotations

import torch
from torch import Tensor


def vision_awareness(sighted: Tensor, blind: Tensor) -> Tensor:
    """Return VHD (Eq. 4): how far a head's output moves when the image is removed.

    Args:
        sighted: `[..., Hq, D]`, head outputs before the output projection, image present.
        blind: the same with the image removed.

    Returns:
        float32 `[..., Hq]`, not normalised.
    """
    return (sighted.float() - blind.float()).square().sum(dim=-1).sqrt()


def surge(blind: Tensor, squared: bool = False) -> Tensor:
    """Return TA of Eq. 6, float32 `[..., Hq]`: how strong each head is without the image `[..., Hq, D]`.

    Print leaves open whether the norm is squared; unsquared is the default here.
    """
    square = blind.float().square().sum(dim=-1)
    return square if squared else square.sqrt()


def without_outliers(awareness: Tensor, surges: Tensor, unbiased: bool = True) -> Tensor:
    """Return VHD with "negative vision sensitivity" set to zero (Eq. 6).

    A head is dropped where its VHD and its TA both exceed mean plus one standard deviation over the layer's heads. Such
    a head moves a lot because it surges when the image is removed.

    Args:
        awareness: `[..., Hq]`, VHD.
        surges: `[..., Hq]`, TA.
        unbiased: divide the variance by `Hq - 1`; print leaves it open.
    """
    outlier = _stands_out(awareness, unbiased) & _stands_out(surges, unbiased)
    return awareness.masked_fill(outlier, 0.0)


def above_median(awareness: Tensor) -> Tensor:
    """Return bool `[..., Hq]`: heads strictly above the layer's lower median (Eq. 7)."""
    return awareness > awareness.median(dim=-1, keepdim=True).values


def least_aware(awareness: Tensor, count: Tensor) -> Tensor:
    """Return bool `[..., Hq]`: the `count` `[...]` heads with the lowest VHD, the control for `above_median`."""
    return _rank(awareness) < count.unsqueeze(-1)


def random_heads(like: Tensor, count: Tensor, seed: int, layer: int) -> Tensor:
    """Return bool `[..., Hq]`: `count` heads drawn by seed and layer, the same ones for every batch row."""
    generator = torch.Generator().manual_seed(seed * 1009 + layer)
    rank = torch.randperm(like.shape[-1], generator=generator).to(like.device)
    return (rank < count.unsqueeze(-1)).expand_as(like)


def token_awareness(awareness: Tensor, top: int) -> Tensor:
    """Return one layer's part of T-VHD (Eq. 5): the sum of its `top` largest VHD, `[..., Hq]` to `[...]`."""
    return awareness.topk(min(top, awareness.shape[-1]), dim=-1).values.sum(dim=-1)


def default_top(heads: int) -> int:
    """Return the default k of Eq. 5: 8, at most a quarter of the heads, at least one. The paper does not give it."""
    return max(1, min(8, heads // 4))


def _stands_out(values: Tensor, unbiased: bool) -> Tensor:
    if values.shape[-1] < 2:
        return torch.zeros_like(values, dtype=torch.bool)
    deviation = values.std(dim=-1, keepdim=True, correction=int(unbiased))
    return values > values.mean(dim=-1, keepdim=True) + deviation


def _rank(values: Tensor) -> Tensor:
    return values.argsort(dim=-1, stable=True).argsort(dim=-1)
