"""What an intervention is, what it is shown on each layer and step, and how it is found and written in one word.

An intervention is a frozen dataclass in a file of this folder. It holds options and no state: everything it learns
during a generation it keeps in `AttentionCall.memory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import nn
from vlm_kernels import AttentionPlan

from vlm_heads.blind import BlindMode
from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile


@runtime_checkable
class Intervention(Protocol):
    """A change of the language model's attention. Subclass it with a frozen dataclass whose fields are the options.

    Attributes:
        name: the word for it on the command line.
        neutral: options under which it changes nothing, bit for bit; the laws are tested with them.
        trial: options under which it acts on a model of any size, as a tiny random one; the laws are tested with them.
        reads_hidden: whether `plan` reads `AttentionCall.hidden`.
        needs_profile: whether its defaults act on nothing without a profile given to `attach`.
    """

    name: ClassVar[str]
    neutral: ClassVar[Mapping[str, Any]]
    trial: ClassVar[Mapping[str, Any]] = {}
    reads_hidden: ClassVar[bool] = False
    needs_profile: ClassVar[bool] = False

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        """Return the layers on which `plan` is asked.

        Raises:
            BadOption: if the options do not fit the model's depth.
        """
        ...

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        """Return what to change in this call, or None for nothing. A plan already made may be returned again."""
        ...

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        """Raise `UnsupportedModel` or `BadOption` if this cannot act on the model; called before anything changes."""
        return None

    def image_free(self, profile: HeadProfile | None) -> BlindMode | None:
        """Return which image-free pass is needed at prefill; None where none is."""
        return None

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        """Return a context that lasts as long as the attach and gives what every generation's memory starts with.

        It is entered before anything changes, and may raise as `check` does, run the plain model, or watch a part of
        it; whatever it watches it leaves as it was.
        """
        return nullcontext({})
