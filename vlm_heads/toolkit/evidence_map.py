"""The visual evidence of an image: what many layers begin to look at while the first tokens are said (ILVAD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlm_heads.toolkit.first_pass import FirstPass
from vlm_heads.toolkit.row_attention import image_keys, over_prompt, row_weights

if TYPE_CHECKING:
    from vlm_heads.call import AttentionCall

_OUTLIER = 3  # standard deviations from the mean at which a value is cut off


class EvidencePass(FirstPass):
    """Records where the heads that look at the image most look, and finds the evidence in it.

    Args:
        tokens: how many the model says; the row of each but the last one is read.
        threshold: a key is looked at where its weight is above this many times the mean over the image.
    """

    def __init__(self, tokens: int, threshold: float) -> None:
        self.tokens = tokens
        self._threshold = threshold
        self._seen: dict[int, list[Tensor]] = {}
        self._image: Tensor | None = None

    def see(self, call: AttentionCall) -> None:
        if not call.decoding:
            image = image_keys(call)
            self._image = image[:, : call.key_map.prompt_length]
            return
        weights = row_weights(call) * image_keys(call)[:, None]
        looking = by_half(weights.sum(dim=-1))
        mean = (weights * looking[..., None]).sum(dim=1) / looking.sum(dim=1, keepdim=True)
        self._seen.setdefault(call.layer, []).append(over_prompt(call, mean))

    def found(self, lengths: Tensor) -> Mapping[Any, Any]:
        """Return the evidence `[B, T]` over the prompt as "evidence": 0 to 1 at image keys, 0 elsewhere."""
        assert self._image is not None, "the prompt is read before a token is said"
        image = self._image
        if not self._seen:  # one token: the end
            return {"evidence": torch.zeros(image.shape, device=image.device)}
        attention = torch.stack([_mean(steps, lengths) for _, steps in sorted(self._seen.items())])
        return {"evidence": evidence(attention, image, self._threshold)}


def by_half(scores: Tensor) -> Tensor:
    """Return bool `[B, Hq]`: the half of the heads, rounded down, one at least, with the highest scores `[B, Hq]`."""
    count = max(1, scores.shape[1] // 2)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.topk(count, dim=1).indices, True)


def evidence(attention: Tensor, image: Tensor, threshold: float) -> Tensor:
    """Return the evidence `[B, T]`, 0 to 1; 0 all along a row in which no key stands out.

    Args:
        attention: `[L, B, T]`, each layer's attention to the image, 0 elsewhere.
        image: bool `[B, T]`.
        threshold: see `EvidencePass`.
    """
    count = image.sum(dim=1, keepdim=True).clamp_min(1)
    looked_at = (attention > threshold * attention.sum(dim=-1, keepdim=True) / count) & image
    begun = (looked_at[1:] & ~looked_at[:-1]).sum(dim=0)
    mean = attention.mean(dim=0)
    raised = torch.where(mean > mean.sum(dim=-1, keepdim=True) / count, begun, 0).to(attention.dtype)
    cut = cut_off(raised, image)
    return scaled(cut, cut, image)


def scaled(values: Tensor, cut: Tensor, among: Tensor) -> Tensor:
    """Return each row's values among some keys, outliers cut off, from the least's 0 to the largest's 1.

    Where all are the same, all are 0.

    Args:
        values: `[B, T]`, whose least and largest are taken.
        cut: `[B, T]`, what is scaled: the same with outliers cut off.
        among: bool `[B, T]`; others come back as 0.
    """
    least, most = _ends(values, among)
    spread = torch.where(most > least, most - least, 1.0)
    return torch.where(among, (cut - least) / spread, 0.0)


def differ(values: Tensor, among: Tensor) -> Tensor:
    """Return bool `[B, 1]`: whether a row's values `[B, T]` among some keys are not all the same."""
    least, most = _ends(values, among)
    return most > least


def cut_off(values: Tensor, among: Tensor) -> Tensor:
    """Return each row's values `[B, T]`, none further than three standard deviations from the mean of those counted.

    Args:
        values: to cut off; those not counted come back as they are.
        among: bool `[B, T]`, those counted.
    """
    count = among.sum(dim=1, keepdim=True)
    mean = (values * among).sum(dim=1, keepdim=True) / count.clamp_min(1)
    squares = ((values - mean).square() * among).sum(dim=1, keepdim=True)
    reach = _OUTLIER * (squares / (count - 1).clamp_min(1)).sqrt()
    return torch.where(among & (count > 1), values.clamp(mean - reach, mean + reach), values)


def _ends(values: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest of each row's values among some keys, `[B, 1]`; infinite without any."""
    least = values.masked_fill(~among, torch.inf).amin(dim=1, keepdim=True)
    return least, values.masked_fill(~among, -torch.inf).amax(dim=1, keepdim=True)


def _mean(steps: list[Tensor], lengths: Tensor) -> Tensor:
    """Return the mean over the steps that each row took part in, `[B, T]` of `[B, T]` each."""
    every = torch.stack(steps)
    numbers = torch.arange(1, len(steps) + 1, device=every.device)[:, None]
    counted = (numbers < lengths.to(every.device)).to(every.dtype)  # the row of the last token says nothing more
    return torch.einsum("sb,sbt->bt", counted, every) / counted.sum(dim=0).clamp_min(1)[:, None]
