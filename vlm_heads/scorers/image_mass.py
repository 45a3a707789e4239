"""Image mass: how much of its attention a head gives the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.scorers.base import Found, Scorer, empty
from vlm_heads.scorers.batch import batch_inputs, watched_forward
from vlm_heads.scorers.example import Example
from vlm_heads.toolkit.row_attention import image_keys, require_image_keys, row_weights


@dataclass(frozen=True)
class ImageMass(Scorer):
    """The attention weight that a head gives all image positions together, where the prompt ends.

    High means that the head attends to the picture. What it reads there is not looked at: a head may rest on a sink.

    Formula:
        s[l, i] = sum over image keys j of w[l, i, j]   after softmax, in the prompt's last row; 0..1
    """

    name: ClassVar[str] = "image-mass"
    label: ClassVar[str] = "image mass"
    unit: ClassVar[str] = "share of the attention"

    def check(self, anatomy: Anatomy) -> None:
        require_image_keys(anatomy)

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        watcher = _Mass()
        watched_forward(model, batch_inputs(model, processor, examples), watcher)
        tables = empty(anatomy, len(examples))
        for layer, mass in watcher.mass.items():
            tables[:, layer] = mass
        yield from (Found(table[None]) for table in tables)


class _Mass(Watcher):
    """Keeps the weight on the image in each prompt's last row, `[B, Hq]` by layer."""

    def __init__(self) -> None:
        self.mass: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        self.mass[call.layer] = (row_weights(call) * image_keys(call)[:, None]).sum(dim=-1).float().cpu()
