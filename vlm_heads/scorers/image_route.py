"""Image route: how much of a head's output comes from the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.scorers.base import Found, Scorer, empty
from vlm_heads.scorers.batch import batch_inputs, watched_forward
from vlm_heads.scorers.example import Example
from vlm_heads.toolkit.row_attention import image_keys, require_image_keys, row_weights


@dataclass(frozen=True)
class ImageRoute(Scorer):
    """The norm of what the image positions contribute to a head's output, where the prompt ends.

    High means that much of the output comes from the picture. It differs from the image mass by the values' size.

    Formula:
        s[l, i] = || sum over image keys j of w[l, i, j] * v[l, j] ||_2   in the prompt's last row
    """

    name: ClassVar[str] = "image-route"
    label: ClassVar[str] = "image route"
    unit: ClassVar[str] = "norm of the image's part of a head's output"

    def check(self, anatomy: Anatomy) -> None:
        require_image_keys(anatomy)

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        watcher = _Route()
        watched_forward(model, batch_inputs(model, processor, examples), watcher)
        tables = empty(anatomy, len(examples))
        for layer, route in watcher.norms.items():
            tables[:, layer] = route
        yield from (Found(table[None]) for table in tables)


class _Route(Watcher):
    """Keeps the norm of the image's part of each head's output in each prompt's last row, `[B, Hq]` by layer."""

    def __init__(self) -> None:
        self.norms: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        weights = row_weights(call) * image_keys(call)[:, None]  # [B, Hq, Tk]
        groups = weights.view(
            len(weights), call.value.shape[1], -1, weights.shape[-1]
        )  # heads by the key head they share
        part = torch.einsum("bgik,bgkd->bgid", groups, call.value.to(weights.dtype))
        self.norms[call.layer] = part.norm(dim=-1).flatten(1).float().cpu()
