"""Static gains: the attached form of a reinforced profile, one gain per head for every image. This is not VHR."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan

from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.head_list import GainList, GainListForm, layers_of_heads
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.static_plan import static_plan

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile


@dataclass(frozen=True)
class StaticGains(Intervention):
    """A reinforced profile: multiply each head's output by its own fixed gain, before the output projection.

    VHR chooses its heads for each image anew. Here nothing is chosen, so it costs no image-free pass, and `fold_gains`
    writes the same edit into the weights of an ordinary checkpoint. One difference remains: attached, it leaves a
    prompt without an image alone; a folded checkpoint cannot tell.

    Formula:
        A[l, i] <- gains[l, i]^strength * A[l, i]   the output of head i on layer l, before the output projection
    """

    name: ClassVar[str] = "reinforced"
    label: ClassVar[str] = "static gains"
    lever: ClassVar[str] = "head gain"
    trial: ClassVar[Mapping[str, Any]] = {"gains": ((0, 0, 3.0), (-1, 1, 0.25))}
    needs_profile: ClassVar[bool] = True
    needs_image_keys: ClassVar[bool] = False

    gains: GainList = option(
        "profile",
        form=GainListForm("profile"),
        help='"profile" takes the gains of the profile given to attach; or (layer, head, gain) triples, written as '
        "14.3:2+17.0:0.5 for gain 2 on head 3 of layer 14 and 0.5 on head 0 of layer 17",
    )
    strength: float = option(1.0, at_least=0.0, neutral=0.0, help="exponent on every gain; 1 takes them as they are")
    layers: Layers = layers_option("all")

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        chosen, listed = super().layers_in(anatomy), self._listed()
        if listed is None:
            return chosen
        heads = [(layer, head) for layer, head, _ in listed]
        return chosen & layers_of_heads(anatomy, heads, f"gains={self.gains!r}").keys()

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        if self._listed() is None and (profile is None or profile.gains is None):
            raise BadOption(
                "gains='profile' takes its gains from a reinforced profile, and "
                f"{'none was given' if profile is None else 'this one holds scores alone'}: `vlm-heads calibrate` "
                "makes one; give it with --profile, or attach(..., profile=...)"
            )
        super().check(anatomy, profile)

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        return nullcontext({"gains": self._table(anatomy, profile)})

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        return static_plan(call)

    def _table(self, anatomy: Anatomy, profile: HeadProfile | None) -> Tensor:
        """Return float32 `[L, Hq]`: every head's gain."""
        listed = self._listed()
        if listed is None:
            assert profile is not None, "check() insists on it"
            assert profile.gains is not None, "check() insists on it"
            return profile.gains**self.strength
        gains = torch.ones(anatomy.depth, anatomy.heads)
        for layer, head, gain in listed:
            gains[layer, head] = gain
        return gains**self.strength

    def _listed(self) -> tuple[tuple[int, int, float], ...] | None:
        """Return the triples given, None where the profile holds the gains."""
        return None if isinstance(self.gains, str) else tuple(self.gains)
