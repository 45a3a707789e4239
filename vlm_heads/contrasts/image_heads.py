"""Heads told by what they give the picture: those of a list, those at an end of a ranking, or each prompt's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlm_heads.attached.looked import image_weights
from vlm_heads.attached.stream_edit import SecondStreamCall
from vlm_heads.families import Anatomy
from vlm_heads.toolkit.head_list import HeadList, layers_of_heads
from vlm_heads.toolkit.head_ranking import highest, lowest, read_ranking


@dataclass(frozen=True)
class ImageHeads:
    """Heads of a second stream's edit.

    Attributes:
        listed: heads by layer, the same for every prompt; None where each prompt has its own.
        share: of all heads, for each prompt's own.
        least: whether each prompt's own are those that give the picture least, or most.
    """

    listed: Mapping[int, frozenset[int]] | None
    share: float
    least: bool

    @classmethod
    def of(cls, name: str, anatomy: Anatomy, heads: HeadList, ranking: str, share: float, least: bool) -> ImageHeads:
        """Return the heads that options state.

        Args:
            name: of the method, for messages.
            anatomy: of the model.
            heads: a list, or a word.
            ranking: a file, or "none".
            share: of all heads, where they are not listed.
            least: whether a ranking's lowest are taken, or its highest.

        Raises:
            BadOption: if a head is not in the model.
            BadProfile: if the ranking cannot be read.
        """
        listed = None
        if not isinstance(heads, str):
            listed = layers_of_heads(anatomy, heads, name)
        elif ranking != "none":
            end = lowest if least else highest
            count = round(share * len(anatomy.attentions) * anatomy.heads)
            listed = layers_of_heads(anatomy, end(read_ranking(ranking), count), name)
        return cls(listed, share, least)

    def layers(self, anatomy: Anatomy) -> frozenset[int]:
        """Return the layers that may have such heads."""
        return frozenset(anatomy.attentions if self.listed is None else self.listed)

    def learnt(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[Any, Any]:
        """Return what `chosen` reads of a generation's memory: each prompt's own heads, found in a plain pass."""
        if self.listed is not None:
            return {}
        mass = {layer: weights.sum(dim=-1) for layer, weights in image_weights(model, inputs).items()}
        found = _at_the_end(torch.stack([*mass.values()], dim=1), self.share, self.least)
        return {"own_heads": dict(zip(mass, found, strict=True))}

    def chosen(self, call: SecondStreamCall) -> Tensor:
        """Return bool `[B, Hq]`: the heads of this layer, in rows with a picture."""
        if self.listed is None:
            heads = call.memory["own_heads"][call.layer]
        else:
            heads = torch.zeros(1, call.query.shape[1], dtype=torch.bool, device=call.query.device)
            heads[:, list(self.listed[call.layer])] = True
        found: Tensor = heads & call.key_map.has_image[:, None]
        return found


def _at_the_end(mass: Tensor, share: float, least: bool) -> tuple[Tensor, ...]:
    """Return bool `[B, Hq]` for each layer: the share of all heads at one end of `mass` `[B, L, Hq]`."""
    flat = mass.flatten(1)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen.scatter_(1, flat.topk(round(share * flat.shape[1]), dim=1, largest=not least).indices, True)
    return chosen.view_as(mass).unbind(dim=1)
