"""Route gain (ours): the image's part in the output of vision-aware heads counts for more, the text's part stays.

Attention sums values over keys, so a head's output is exactly the sum of what each class of keys sends through it: an
image route, a prompt route, a route of the text generated so far. Where head reinforcement multiplies all of them
together, this multiplies one. The published neighbours need a gradient per token (CRG) or a list of heads (AD-HH); the
kernel keeps the routes apart anyway, so this costs nothing beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from torch import Tensor
from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass

from vlm_heads.blind import BlindMode
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.head_choice import NEEDS_IMAGE_FREE_PASS, HeadChoice, choose_heads
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers
from vlm_heads.toolkit.options import require_number, require_word
from vlm_heads.toolkit.row_attention import last_row, require_image_keys, text_after_image

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

Rows = Literal["last", "after-image", "all"]


@dataclass(frozen=True)
class RouteGain(Intervention):
    """Multiply the image route, and if wanted the generated-text route, of chosen heads; not renormalised.

    The heads are chosen at prefill, layer by layer with earlier layers already gained, and then frozen, as in VHR. The
    image-free pass has no image route, so whether it is gained too makes no difference.

    Attributes:
        image: factor on what image keys, sinks included, contribute; 1 changes nothing.
        generated: factor on what the text generated so far contributes; below 1 damps it.
        heads: see `choose_heads`; "bottom" and "random" are controls.
        layers: a layer set, or indices.
        rows: which prompt positions are gained beside every decode step: the last one, those after the image, or all.
        outlier_filter: leave out heads of "negative vision sensitivity" (He et al. 2025, Eq. 6).
        seed: of the random control.

    Raises:
        BadOption: if a gain is negative or not finite, or a word is unknown.
    """

    name: ClassVar[str] = "route"
    neutral: ClassVar[Mapping[str, Any]] = {"image": 1.0, "generated": 1.0}

    image: float = 2.0
    generated: float = 1.0
    heads: HeadChoice = "vhd"
    layers: Layers = "last-half"
    rows: Rows = "last"
    outlier_filter: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_number("image", self.image, at_least=0.0)
        require_number("generated", self.generated, at_least=0.0)
        require_word("heads", self.heads, get_args(HeadChoice))
        require_word("rows", self.rows, get_args(Rows))

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        last_half = range(anatomy.depth // 2, anatomy.depth)
        return resolve_layers(self.layers, anatomy.depth, last_half) & anatomy.attentions.keys()

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        require_image_keys(anatomy)
        if self.heads == "fixed" and profile is None:
            raise BadOption("heads='fixed' takes its heads from a profile: give one to attach(..., profile=...)")

    def image_free(self, profile: HeadProfile | None) -> BlindMode | None:
        return "plain" if profile is None and self.heads in NEEDS_IMAGE_FREE_PASS else None

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        known: AttentionPlan | None = call.memory.get(call.layer)
        if known is None:
            if not call.prefill or not call.key_map.any_image:
                return None
            known = self._frozen(call)
        if self.image == self.generated == 1.0:
            return None
        if call.query.shape[2] == 1:
            return known
        return AttentionPlan(class_gain=known.class_gain, rows=self._rows(call))

    def _frozen(self, call: AttentionCall) -> AttentionPlan:
        """Return the plan of every decode step of this generation."""
        chosen = choose_heads(call, self.heads, outlier_filter=self.outlier_filter, seed=self.seed)
        call.tally.note(chosen)
        plan = AttentionPlan(class_gain=self._class_gain(call, chosen))
        call.memory[call.layer] = plan
        return plan

    def _class_gain(self, call: AttentionCall, chosen: Tensor) -> Tensor:
        gain = call.query.new_ones((*chosen.shape, CLASS_COUNT))
        image = call.gains(chosen, self.image)
        gain[..., KeyClass.IMAGE] = image
        gain[..., KeyClass.IMAGE_SINK] = image
        gain[..., KeyClass.GENERATED] = call.gains(chosen, self.generated)
        return gain

    def _rows(self, call: AttentionCall) -> Tensor | None:
        if self.rows == "all":
            return None
        return last_row(call) if self.rows == "last" else text_after_image(call)
