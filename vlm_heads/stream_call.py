"""What steering sees: what leaves one layer, or what its MLP adds, in one forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_heads.call import GenerationState
from vlm_heads.receipt import LayerTally
from vlm_heads.token_head import TokenHead

IMAGE = "image"  # in the memory of a method that asks for it


@dataclass(slots=True)
class StreamCall:
    """One place between layers in one forward.

    Attributes:
        layer: zero-based.
        entering: `[B, T, width]`, what entered the layer, or its MLP.
        leaving: `[B, T, width]`, what left it.
        state: of this generation.
        head: reads hidden states.
        memory: this method's own dictionary, empty when a generation starts. A tensor whose first axis is as long as
            the batch is taken to hold a value for each row.
        tally: where this method notes what it did on this layer.
    """

    layer: int
    entering: Tensor
    leaving: Tensor
    state: GenerationState
    head: TokenHead
    memory: dict[Any, Any]
    tally: LayerTally

    @property
    def prefill(self) -> bool:
        """Whether the positions are the prompt's."""
        return self.state.prefill

    @property
    def image(self) -> Tensor:
        """`[B, T, width]`: what entered layer 0 with the prompt, zero but for image positions; see `keeps_image`."""
        kept: Tensor = self.memory[IMAGE]
        return kept

    def note(self) -> None:
        """Note at prefill that rows with an image are acted on."""
        if self.prefill:
            self.tally.note_rows(self.state.key_map.has_image)

    def shown(self) -> Tensor:
        """Return `[B, width]`: what the image adds to what leaves the layer at the prompt's end.

        The same prompt is read with the image and without it, nothing changed in either; see `Steering.compares`.
        """
        sighted, blind = self.state.sighted, self.state.blind
        assert sighted is not None, "image_free() did not ask for two passes"
        assert blind is not None, "image_free() did not ask for two passes"
        return sighted.entering[self.layer + 1] - blind.entering[self.layer + 1]


def turned(hidden: Tensor, towards: Tensor) -> Tensor:
    """Return hidden states `[..., width]` moved by `towards`, in units of their own length, and as long as before."""
    wide = hidden.float() if hidden.dtype in (torch.float16, torch.bfloat16) else hidden
    length = wide.norm(dim=-1, keepdim=True)
    moved = torch.nn.functional.normalize(wide, dim=-1) + towards
    found: Tensor = (torch.nn.functional.normalize(moved, dim=-1) * length).to(hidden.dtype)
    return found
