"""What an intervention is: a frozen dataclass that says, layer by layer, what to change in attention.

It holds options and no state. Everything it learns during a generation it keeps in `AttentionCall.memory`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import nn
from vlm_kernels import AttentionPlan

from vlm_heads.blind import BlindMode
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.toolkit.first_pass import FirstForward, FirstPass
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers
from vlm_heads.toolkit.method import Method
from vlm_heads.toolkit.row_attention import require_image_keys

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile


class Intervention(Method):
    """A change inside the language model: of its attention, or between its layers (`Steering`).

    A subclass states a name, its options and `plan`. An option `layers` restricts it to a layer set; without one it
    acts on the layers of its paper.

    Attributes:
        trial: options under which it acts on any model, even a tiny random one; the laws are tested with them.
        reads_hidden: whether `plan` reads `AttentionCall.hidden`.
        needs_profile: whether its defaults need what was learnt about the model, a profile or a table.
        needs_image_keys: whether it needs image keys in the language model's self-attention.
        in_attention: whether it acts by `plan`; steering acts between layers.
        remembers_steps: whether it keeps what earlier steps attended to, which beams that change places would mix up.
            A question that is asked beside an answer goes on from the prompt alone, so it begins without that.
    """

    trial: ClassVar[Mapping[str, Any]] = {}
    reads_hidden: ClassVar[bool] = False
    needs_profile: ClassVar[bool] = False
    needs_image_keys: ClassVar[bool] = True
    in_attention: ClassVar[bool] = True
    remembers_steps: ClassVar[bool] = False

    @abstractmethod
    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        """Return what to change in this call, or None for nothing. A plan already made may be returned again.

        It is called on the layers of `layers_in`, in generations that have an image.
        """
        ...

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        """Return the layers that "paper" stands for, zero-based; all where a method says nothing else."""
        return range(anatomy.depth)

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        """Return the layers on which `plan` is asked.

        Raises:
            BadOption: if the options do not fit the model's depth, or name a layer without heads.
        """
        layers: Layers = getattr(self, "layers", "paper")
        chosen = resolve_layers(layers, anatomy.depth, self.paper_layers(anatomy))
        with_heads = chosen & anatomy.attentions.keys()
        if not with_heads or (with_heads < chosen and not isinstance(layers, str)):
            raise BadOption(
                f"{self.name}: layer {min(chosen - with_heads)} of {anatomy.model_type} has no attention heads; layers "
                f"that have: {', '.join(map(str, anatomy.attentions))}"
            )
        return with_heads

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        """Raise `UnsupportedModel` or `BadOption` if this cannot act on the model; called before anything changes."""
        if self.needs_image_keys:
            require_image_keys(anatomy)
        if self.chooses_heads and getattr(self, "heads", None) == "fixed" and profile is None:
            raise BadOption("heads='fixed' takes its heads from a profile: give one to attach(..., profile=...)")

    def image_free(self, profile: HeadProfile | None) -> BlindMode | None:
        """Return which image-free pass it needs at prefill; None for none."""
        return None

    def first_pass(self, anatomy: Anatomy) -> FirstPass | None:
        """Return what records an answer of the model's own before the caller's; None where the method needs none.

        It is asked for at every call of `generate`. A method that needs one cannot act in a bare forward.
        """
        return None

    def first_forward(self, anatomy: Anatomy) -> FirstForward | None:
        """Return what reads a plain forward before one of a generation; None where the method needs none."""
        return None

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        """Return a context that lasts as long as the attach, and gives what every generation's memory starts with.

        It is entered before anything changes. It may raise as `check` does, run the plain model, or watch a part of it.
        Afterwards that part is as it was.
        """
        return nullcontext({})

    @property
    def chooses_heads(self) -> bool:
        """Whether an option `heads` names a way of choosing heads, so that controls on other heads can be made."""
        return any(one.name == "heads" and "bottom" in one.words for one in self.options())

    def with_heads(self, heads: str) -> Self:
        """Return the same acting on heads chosen in another way: "bottom" and "random" are the controls.

        Raises:
            BadOption: if it chooses no heads, or not in this way.
        """
        if not self.chooses_heads:
            raise BadOption(f"{self.name} chooses no heads, so it cannot act on {heads} ones")
        changed: Self = replace(self, heads=heads)  # type: ignore[type-var]  # subclasses are dataclasses
        return changed
