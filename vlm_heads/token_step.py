"""What a lens sees: the token logits of one step, and the hidden states that led to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlm_heads.call import GenerationState
from vlm_heads.families import Anatomy
from vlm_heads.layer_end import behind_attention
from vlm_heads.receipt import LensReceipt
from vlm_heads.token_head import TokenHead


@dataclass(slots=True)
class TokenStep:
    """One token of a generation, before it is chosen.

    Attributes:
        logits: `[R, V]`, as `generate` would take them; those of beams are log-probabilities.
        said: int64 `[R]`, tokens of the answer before this one.
        state: of this generation.
        head: reads hidden states.
        memory: this lens's own, empty when `generate` is called.
        receipt: where this lens notes what it did.
        reads: the layers of the lens's `reads`.
        anatomy: of the model.
        seen: what the lens's `see` kept of this forward's attention.
    """

    logits: Tensor
    said: Tensor
    state: GenerationState
    head: TokenHead
    memory: dict[Any, Any]
    receipt: LensReceipt
    reads: frozenset[int]
    anatomy: Anatomy
    seen: Mapping[Any, Any] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How many layers the model has."""
        return self.anatomy.depth

    def log_probs(self) -> Tensor:
        """Return log-probabilities `[R, V]` of the model's own next token."""
        return self.logits.log_softmax(dim=-1)

    def entering(self, layer: int) -> Tensor:
        """Return the hidden state `[R, width]` that entered a layer where this token is predicted.

        That is what the layer before it left; at layer 0 it is the embedding, and at `depth` what enters the last norm.
        Only layers of `reads` are kept.
        """
        return self.state.entering[layer]

    def early_logits(self, layer: int, norm: bool = True) -> Tensor:
        """Return token logits `[R, V]` of what enters a layer, with the model's last norm or without it."""
        return self.head.logits(self.entering(layer), norm).to(self.logits)

    def own_logits(self) -> Tensor:
        """Return token logits `[R, V]` that the model gave, before any logits processor; `depth` has to be read."""
        return self.early_logits(self.depth)

    def leaving(self, attended: Tensor, share: float = 1.0) -> Tensor:
        """Return what the last layer would leave `[R, width]`, had its attention given something else.

        Args:
            attended: `[R, width]`, in place of what its attention gives.
            share: of what enters the layer; `depth - 1` has to be read.
        """
        last = self.depth - 1
        return behind_attention(self.anatomy, last, share * self.entering(last), attended)

    def note(self, candidates: Sequence[int] = (), chosen: Tensor | None = None) -> None:
        """Count the step's tokens; `chosen` int64 `[R]` is each row's place among the candidate layers."""
        self.receipt.note(self.state.key_map.has_image, candidates, chosen)


def implausible(log_probs: Tensor, bound: float) -> Tensor:
    """Return bool `[R, V]`: tokens less probable than `bound` times the most probable one."""
    most = log_probs.amax(dim=-1, keepdim=True)
    return log_probs < most + torch.log(torch.as_tensor(bound, dtype=log_probs.dtype, device=log_probs.device))
