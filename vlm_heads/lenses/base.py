"""What a lens is: a frozen dataclass that weighs a step's token logits with what earlier layers or steps would say.

No second forward runs. The hidden states are read where the model's own forward leaves them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from vlm_heads.call import AttentionCall
from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.token_step import TokenStep
from vlm_heads.toolkit.method import Method


class Lens(Method):
    """A change of the token logits inside `generate`, where a bare forward knows no next token.

    A subclass states a name, its options, `reads` and `weigh`. Rows of a prompt without an image are left alone, as
    by every method. Several may be combined; they act in the order given, before a contrast.

    Attributes:
        trial: options under which it acts on any model, even a tiny random one; the laws are tested with them.
    """

    trial: ClassVar[Mapping[str, Any]] = {}

    @property
    def weighs(self) -> bool:
        """Whether its options let it change token logits."""
        return not self.changes_nothing

    def reads(self, anatomy: Anatomy) -> frozenset[int]:
        """Return the layers whose entering hidden state `weigh` reads; none where a lens says nothing else.

        The number of layers stands for what enters the last norm, from which the model's own logits come.

        Raises:
            BadOption: if the options do not fit the model's depth.
        """
        return frozenset()

    def watches(self, anatomy: Anatomy) -> frozenset[int]:
        """Return the layers whose attention `see` looks at; none where a lens says nothing else.

        Raises:
            BadOption: if the options do not fit the model.
            UnsupportedModel: if the lens cannot read this model's attention.
        """
        return frozenset()

    def see(self, call: AttentionCall) -> None:
        """Look at one attention call before `weigh` is asked; what it keeps in `call.memory` is `TokenStep.seen`.

        It changes nothing, and must not write to the tensors of the call.
        """
        raise NotImplementedError(f"{type(self).__name__} watches layers and states no see")

    def mask(self) -> float:
        """Return the share of the most probable token's probability below which tokens are excluded; 0 for none."""
        return float(getattr(self, "bound", 0.0))

    @abstractmethod
    def weigh(self, step: TokenStep) -> Tensor:
        """Return token logits `[R, V]` in place of the step's; excluded tokens have minus infinity."""
        ...


def require_lens(anatomy: Anatomy) -> None:
    """Raise `UnsupportedModel` if the family's own `generate` ignores logits processors."""
    if anatomy.quirks.drops_processors:
        raise UnsupportedModel(
            f"the generate() of {anatomy.model_type} drops logits processors, so a lens would be ignored"
        )
