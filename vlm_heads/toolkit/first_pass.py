"""A first pass: an answer that the model gives for itself before the caller's own, and whose recordings decide that.

    with attach(model, "ilvad"):
        model.generate(**inputs)    # ten tokens for the method, then the answer

Inside an attach the first pass runs when `generate` is called. It is greedy and plain: nothing that is attached acts on
it, and no watcher sees it. What it found is in the method's memory when the caller's own generation begins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from vlm_heads.call import AttentionCall


class FirstPass(ABC):
    """Records the attention of one first pass; made for one call of `generate`.

    Attributes:
        tokens: how many the model says.
    """

    tokens: int

    def attend(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """Return plain attention and, where the model computes them anyway, its weights; look at the call before."""
        call.output, weights = call.plain_with_weights()
        self.see(call)
        return call.output, weights

    @abstractmethod
    def see(self, call: AttentionCall) -> None:
        """Look at one layer's attention in one forward.

        `call.memory` is empty, and nothing is kept in it. The tensors belong to the model.
        """
        ...

    @abstractmethod
    def found(self, lengths: Tensor) -> Mapping[Any, Any]:
        """Return what the memory of the method begins with in the second pass.

        A tensor whose first axis is as long as the batch is taken to hold a value for each row.

        Args:
            lengths: int64 `[B]`, how many tokens each row said, its end token included.
        """
        ...


class FirstForward(ABC):
    """Reads a plain forward that runs before each forward of a generation, on the same input, and decides the second's.

    It is made for one forward. Gradients can be taken of what comes after the first layer on which `attend` enables
    them. The cache that it fills is a copy.
    """

    @abstractmethod
    def attend(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """Return plain attention `[B, Tq, Hq, D]`, which gradients may be taken of, and its weights if it has them."""
        ...

    @abstractmethod
    def found(self, token_logits: Tensor) -> Mapping[Any, Any]:
        """Return what the method's memory holds in the second forward, beside what it held before.

        Args:
            token_logits: `[B, V]`, of the row that predicts the next token.
        """
        ...
