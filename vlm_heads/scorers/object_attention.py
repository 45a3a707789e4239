"""AllPath's score by image: which heads look at an object where it is named (Qian et al. 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.scorers.answer_format import ALL_PATHS
from vlm_heads.scorers.base import Found, Needs, Scorer, empty, sorted_out
from vlm_heads.scorers.batch import watched_forward
from vlm_heads.scorers.example import Example, Named, case_of
from vlm_heads.toolkit.described import Paper
from vlm_heads.toolkit.row_attention import all_weights, image_keys, require_image_keys


@dataclass(frozen=True)
class ObjectAttention(Scorer):
    """AllPath's image score: an object's word attends to where the object lies; absent ones' attend to the picture.

    High means that the head looks at the object that is named, and not at the picture where there is nothing to see.
    Present objects whose places are not known tell nothing. The paper takes other samples than it evaluates on.

    Formula:
        m[l, i](keys) = sum over those keys j of w[l, i, j]   in the row of the object's word, a mean over its tokens
        s[l, i] = mean of m(the object's places) over present objects - mean of m(all image keys) over absent objects

    Not established:
        Whether weights are summed or averaged over places, which row of a word of several tokens counts, and which
        positions a mask covers. Here: summed, all of them, and what the sample says.
    """

    name: ClassVar[str] = "allpath-image"
    label: ClassVar[str] = "AllPath, by image"
    paper: ClassVar[Paper | None] = ALL_PATHS
    needs: ClassVar[Needs] = "objects"
    unit: ClassVar[str] = "share of the attention"
    contrasts: ClassVar[bool] = True

    def check(self, anatomy: Anatomy) -> None:
        require_image_keys(anatomy)

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        for example in examples:
            case = case_of(model, processor, anatomy, example)
            named = [one for one in case.named if one.mention.places or not one.mention.shown]
            if not named:
                yield None
                continue
            watcher = _Looks(named)
            watched_forward(model, case.inputs, watcher)
            tables = empty(anatomy, len(named))
            for layer, mass in watcher.mass.items():
                tables[:, layer] = mass
            yield sorted_out(tables, [one.mention.shown for one in named])


class _Looks(Watcher):
    """Keeps `[n, Hq]` by layer: how much each word attends to its object's places, or to the whole picture."""

    def __init__(self, named: Sequence[Named]) -> None:
        self.named = named
        self.mass: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        weights = all_weights(call)[0]  # [Hq, T, T]
        keys = image_keys(call)[0].nonzero()[:, 0]
        rows = [weights[:, list(one.columns)][..., _keys(one, keys)].sum(-1).mean(-1) for one in self.named]
        self.mass[call.layer] = torch.stack(rows).cpu()


def _keys(named: Named, keys: Tensor) -> Tensor:
    """Return the keys of a mention's places among the image keys; all of them where the object is absent."""
    mention = named.mention
    if not mention.shown:
        return keys
    if max(mention.places) >= len(keys) or min(mention.places) < 0:
        raise BadOption(
            f"{mention.word!r} lies on image position {max(mention.places)}, and the picture has {len(keys)} of them, "
            "counted from 0"
        )
    return keys[list(mention.places)]
