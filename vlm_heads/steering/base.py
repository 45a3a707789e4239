"""What steering is: an intervention between layers, which leaves attention alone.

It changes what a layer leaves, or what its MLP adds to the stream, in rows of prompts with an image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor
from vlm_kernels import AttentionPlan

from vlm_heads.blind import BlindMode
from vlm_heads.call import AttentionCall
from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy, mlps
from vlm_heads.interventions.base import Intervention
from vlm_heads.stream_call import StreamCall
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

Site = Literal["layer", "mlp"]


class Steering(Intervention):
    """A change of the hidden state between layers.

    A subclass states a name, its options, `site` and `steer`. An option `layers` restricts it to a layer set; a layer
    without attention heads is one like the others.

    Attributes:
        compares: whether `steer` asks for `StreamCall.shown`, for which the prompt is read twice more.
        asks_head: whether `steer` reads what enters its layers where the next token is predicted.
        keeps_image: whether `steer` reads `StreamCall.image`.
    """

    needs_image_keys: ClassVar[bool] = False
    in_attention: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    asks_head: ClassVar[bool] = False
    keeps_image: ClassVar[bool] = False

    @property
    @abstractmethod
    def site(self) -> Site:
        """What is changed: "layer" is what a layer leaves, "mlp" what its MLP gives before it is added."""
        ...

    @property
    def in_tower(self) -> bool:
        """Whether it changes what the vision tower's MLPs give, too; then it states `steer_tower`."""
        return False

    def steer_tower(self, layer: int, leaving: Tensor, known: Mapping[Any, Any]) -> Tensor:
        """Return `[N, T, width]` in place of what the MLP of a layer of the vision tower gives.

        A picture is encoded ahead of the forward that reads it, so that nothing is remembered between the two.

        Args:
            layer: of the tower, zero-based.
            leaving: what its MLP gives, of `N` pictures or tiles.
            known: what `prepared` gave.
        """
        raise NotImplementedError(f"{type(self).__name__} changes the vision tower and states no steer_tower")

    @abstractmethod
    def steer(self, call: StreamCall) -> Tensor | None:
        """Return `[B, T, width]` in place of `call.leaving`, or None for no change; rows without an image stay."""
        ...

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        return None

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        layers: Layers = getattr(self, "layers", "paper")
        return resolve_layers(layers, anatomy.depth, self.paper_layers(anatomy))

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        super().check(anatomy, profile)
        if self.site == "mlp" and (missing := self.layers_in(anatomy) - mlps(anatomy).keys()):
            raise UnsupportedModel(
                f"{self.name} changes what MLPs give, and layer {min(missing)} of {anatomy.model_type} has none that "
                "is a module of its own"
            )

        if self.compares and anatomy.quirks.cross_attention:
            raise UnsupportedModel(
                f"{self.name} compares what layers leave with the image and without it, and {anatomy.model_type} "
                "leaves out layers where there is no image"
            )

    def image_free(self, profile: HeadProfile | None) -> BlindMode | None:
        return "two-pass" if self.compares else None
