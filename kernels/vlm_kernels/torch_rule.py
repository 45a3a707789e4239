"""Redistribution in PyTorch: three small products and a choice between them, whatever the number of classes.

Every class enters linearly. One table says what weight on a key adds to each term of the rule, and one product sums the
terms up. A second table turns what the chosen rows hand on into a change of every key's weight.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm_kernels.plan import MAX_CLASSES, KeyClass, Redistribution

_CONDITIONS, _CHANGES = 3, 2
_PARTS = (_CONDITIONS, _CHANGES, 1)
_TERMS = sum(_PARTS)


@dataclass(frozen=True)
class RuleTables:
    """A rule laid out over the keys of one call, or of every later decode step: generated keys have no part in it.

    Attributes:
        per_key: `[B, T, 6]`, what weight on a key adds to its row's terms. Three conditions, none negative in a chosen
            row: room left under the sink share, image mass above its least, receiving mass above nothing. Two
            numerators: the receiving mass and the mass handed on. Their divisor: the receiving mass.
        offset: `[B or 1, Hq or 1, 6]`, what the terms start from; `-inf` where a head may not be chosen.
        changes: `[B, 2, T]`, what a key of a chosen row changes by, in parts of its weight: as a sink, and for each
            part of mass handed on per mass receiving.
        neutral: `[6]`, the terms of a row that is not chosen.
        strict: compare with `>` instead of `>=`.
    """

    per_key: Tensor
    offset: Tensor
    changes: Tensor
    neutral: Tensor
    strict: bool

    @staticmethod
    def of(rule: Redistribution, key_class: Tensor, dtype: torch.dtype) -> RuleTables:
        """Return the tables of a rule, its heads and rows left out, for keys of these classes, int8 `[B, T]`."""
        numbers = (rule.moved, rule.max_sink_share, rule.min_image_mass)
        table, offset, neutral = _by_class(*numbers, dtype, key_class.device)
        per_key, changes = table[:, key_class.long()].split_with_sizes((_TERMS, _CHANGES))
        if rule.share_epsilon > 0.0:
            image_keys = ((key_class == KeyClass.IMAGE_SINK) | (key_class == KeyClass.IMAGE)).sum(-1)
            room = rule.max_sink_share * rule.share_epsilon * image_keys
            offset = offset + torch.nn.functional.pad(room.to(dtype)[:, None, None], (0, _TERMS - 1))
        return RuleTables(per_key.permute(1, 2, 0).contiguous(), offset, changes.transpose(0, 1), neutral, rule.strict)

    def upto(self, keys: int) -> RuleTables:
        """Return the tables of the first keys alone."""
        if keys == self.per_key.shape[1]:
            return self
        return replace(self, per_key=self.per_key[:, :keys], changes=self.changes[..., :keys])

    def redistribute(self, weights: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Let sinks hand weight to image keys, in place.

        Args:
            weights: `[B, N, T]` after softmax, N heads, or heads times rows.
            allowed: bool, broadcast to `[B, N, 1]`: which may be chosen at all.

        Returns:
            Which rows were chosen, and the mass they handed on, both `[B, N, 1]`.
        """
        terms = torch.baddbmm(self.offset, weights, self.per_key)
        least = terms.amin(-1, keepdim=True)
        chosen = least > 0 if self.strict else least >= 0
        if allowed is not None:
            chosen = chosen & allowed
        _, numerators, receiving = torch.where(chosen, terms, self.neutral).split_with_sizes(_PARTS, -1)
        weights.addcmul_(weights, torch.bmm(numerators / receiving, self.changes))
        return chosen, numerators.narrow(-1, 1, 1)


@functools.lru_cache(maxsize=32)
def _by_class(
    moved: float, max_sink_share: float, min_image_mass: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return terms and changes of every class `[8, classes + 1]`, the last column for padding; offset and neutral."""
    with torch.inference_mode(False):  # kept, and perhaps used where gradients are taken
        table = torch.zeros(_TERMS + _CHANGES, MAX_CLASSES + 1, dtype=dtype)
        table[:, KeyClass.TEXT_SINK] = torch.tensor([0.0, 0.0, 0.0, 0.0, moved, 0.0, -moved, 0.0])
        table[:, KeyClass.IMAGE_SINK] = torch.tensor([max_sink_share - 1.0, 1.0, 0.0, 0.0, moved, 0.0, -moved, 0.0])
        table[:, KeyClass.IMAGE] = torch.tensor([max_sink_share, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
        nothing = torch.finfo(dtype).tiny
        offset = torch.tensor([0.0, -min_image_mass, -nothing, 0.0, 0.0, 0.0], dtype=dtype)
        neutral = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], dtype=dtype)
        return table.to(device), offset.to(device)[None, None], neutral.to(device)
