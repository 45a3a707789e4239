"""Route gain (ours): the image's part in the output of vision-aware heads counts for more, the text's part stays.

Attention sums values over keys. So a head's output is exactly the sum of its routes: what the image's keys send through
it, what the prompt's send, and what the generated text's send. Head reinforcement multiplies all of them together; this
multiplies one. The published neighbours need a gradient per token (CRG) or a list of heads (AD-HH). The kernel keeps
the routes apart anyway, so this costs nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn
from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass

from vlm_heads.blind import BlindMode
from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.head_choice import NEEDS_IMAGE_FREE_PASS, HeadChoice, HeadChooser
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import last_row, text_after_image

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

Rows = Literal["last", "after-image", "all"]
Slope = Literal["flat", "rising", "falling"]
_SHARES = "shares"  # in the memory, beside the layers' plans


@dataclass(frozen=True)
class RouteGain(Intervention):
    """Multiply the image route of chosen heads, and the generated-text route if wanted; nothing is renormalised.

    The heads are chosen at prefill, layer by layer, with earlier layers already gained, and then frozen, as in VHR. The
    image-free pass has no image route, so whether it is gained too makes no difference.

    Formula:
        A_c[l, i] = sum over keys j of class c of w[l, i, j] * v[l, i, j]   w: weights after softmax over all keys
        A[l, i]   = sum over classes c of A_c[l, i]   the output of head i on layer l, before the output projection
        A[l, i]  <- r(l, image) A_image[l, i] + r(l, generated) A_generated[l, i] + the others   for i in chosen(l)
        r(l, g)   = 1 + s(l) (g - 1)   s = 1 where flat; rising: k/n on the k-th of n layers; falling: (n + 1 - k)/n
    """

    name: ClassVar[str] = "route"
    label: ClassVar[str] = "RouteGain"
    lever: ClassVar[str] = "class gain"

    image: float = option(
        2.0, at_least=0.0, neutral=1.0, help="factor on what image keys, sinks included, contribute to a head"
    )
    generated: float = option(
        1.0, at_least=0.0, neutral=1.0, help="factor on what the text generated so far contributes; below 1 damps it"
    )
    heads: HeadChoice = option(
        "vhd",
        help='"vhd" takes the heads above the layer\'s median VHD, "fixed" the same from a profile, "mass" those above '
        'the median of image mass, "all" all; "bottom" and "random" are controls',
    )
    layers: Layers = layers_option("last-half", paper="the last half")
    slope: Slope = option(
        "flat",
        help='how the gains go over the layers: "rising" comes to the whole gain on the last one, "falling" begins '
        "with it on the first",
    )
    rows: Rows = option(
        "last", help="prompt positions gained beside every decode step: the last one, those after the image, or all"
    )
    outlier_filter: bool = option(True, help='leave out heads of "negative vision sensitivity" (He et al. 2025, Eq. 6)')
    seed: int = option(0, help="seed of the random control")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        return range(anatomy.depth // 2, anatomy.depth)

    def image_free(self, profile: HeadProfile | None) -> BlindMode | None:
        return "plain" if profile is None and self.heads in NEEDS_IMAGE_FREE_PASS else None

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        layers = sorted(self.layers_in(anatomy))
        return nullcontext({_SHARES: dict(zip(layers, self._shares(len(layers)), strict=True))})

    def _shares(self, count: int) -> list[float]:
        """Return how much of the gains each of so many layers has, from the lowest on."""
        if self.slope == "flat":
            return [1.0] * count
        rising = [(place + 1) / count for place in range(count)]
        return rising if self.slope == "rising" else rising[::-1]

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        known: AttentionPlan | None = call.memory.get(call.layer)
        if known is None:
            if not call.prefill:
                return None
            known = self._frozen(call)
        if self.changes_nothing:
            return None
        return known if call.decoding else AttentionPlan(class_gain=known.class_gain, rows=self._rows(call))

    def _frozen(self, call: AttentionCall) -> AttentionPlan:
        """Return the plan of every decode step of this generation."""
        chosen = HeadChooser(self.heads, self.outlier_filter, seed=self.seed).choose(call)
        call.tally.note(chosen)
        plan = AttentionPlan(class_gain=self._class_gain(call, chosen))
        call.memory[call.layer] = plan
        return plan

    def _class_gain(self, call: AttentionCall, chosen: Tensor) -> Tensor:
        share: float = call.memory[_SHARES][call.layer]
        gain = call.query.new_ones((*chosen.shape, CLASS_COUNT))
        image = call.gains(chosen, 1.0 + share * (self.image - 1.0))
        gain[..., KeyClass.IMAGE] = image
        gain[..., KeyClass.IMAGE_SINK] = image
        gain[..., KeyClass.GENERATED] = call.gains(chosen, 1.0 + share * (self.generated - 1.0))
        return gain

    def _rows(self, call: AttentionCall) -> Tensor | None:
        if self.rows == "all":
            return None
        return last_row(call) if self.rows == "last" else text_after_image(call)
