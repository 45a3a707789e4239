"""VHR, vision-aware head reinforcement: the heads that look at the image count for more (He et al., ACL 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor
from vlm_kernels import AttentionPlan

from vlm_heads.blind import BlindMode
from vlm_heads.call import AttentionCall
from vlm_heads.errors import UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.head_choice import HeadChooser
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

HeadChoice = Literal["vhd", "fixed", "bottom", "random"]

PAPER_TAIL = 14 / 32  # of LLaVA-1.5-7B's 32 layers, the last 14 and the second
FAMILY_TAILS: Mapping[str, float] = {"instructblip": 18 / 32}  # the authors take the last 18 there, and not the second


@dataclass(frozen=True)
class HeadReinforcement(Intervention):
    """VHR: multiply the outputs of the vision-aware heads of a layer, before the output projection.

    A head is vision-aware where its output moves far when the image is removed (VHD). The heads are chosen at prefill,
    layer by layer, with earlier layers already reinforced; then they are frozen. The gain acts on all prompt positions
    and every later one. It costs one image-free prefill and a multiply.

    Formula:
        A[l, i]    output of head i on layer l, before the output projection
        VHD[l, i] = || A[l, i](with the image) - A[l, i](image tokens deleted) ||   at the last prompt position (Eq. 4)
        TA[l, i]  = || A[l, i](image tokens deleted) ||
        VHD[l, i] = 0   where VHD[l, i] > mean + std and TA[l, i] > mean + std over the layer's heads (Eq. 6)
        chosen(l) = { i : VHD[l, i] > lower median of VHD[l, :] } (Eq. 7)
        A[l, i]  <- gain * A[l, i]   for i in chosen(l)

    Paper and program:
        Print leaves three things open: whether TA is squared, whether the standard deviation is unbiased, and whether
        the image-free pass is reinforced too. Each is an option here; the defaults are no, yes and no. Print sets the
        layers for models of 32 layers; other depths take them in proportion.
    """

    name: ClassVar[str] = "vhr"
    label: ClassVar[str] = "VHR"
    lever: ClassVar[str] = "head gain"
    paper: ClassVar[Paper | None] = Paper(
        "He et al.",
        "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence",
        2025,
        "ACL",
        "2412.13949",
    )
    needs_image_keys: ClassVar[bool] = False

    gain: float = option(2.0, at_least=0.0, neutral=1.0, help="factor on the outputs of the chosen heads")
    layers: Layers = layers_option(paper="the second layer and the last 14 of 32, in proportion")
    outlier_filter: bool = option(True, help='leave out heads of "negative vision sensitivity" (Eq. 6)')
    squared_norm: bool = option(False, help="square the norm in Eq. 6; print leaves it open")
    unbiased_std: bool = option(True, help="divide by n - 1 in Eq. 6; print leaves it open")
    blind: BlindMode = option(
        "plain",
        help='the image-free pass: "plain" is un-reinforced, "lockstep" reinforces both streams with the same sets, '
        '"two-pass" scores both streams un-reinforced first; the paper does not say',
    )
    heads: HeadChoice = option(
        "vhd",
        help='"vhd" takes the heads above the layer\'s median; "fixed" takes them from the profile given to attach; '
        '"bottom" and "random" are controls with as many heads; given a profile, "vhd" and "bottom" read it too',
    )
    seed: int = option(0, help="seed of the random control")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        depth, published = anatomy.depth, FAMILY_TAILS.get(anatomy.model_type)
        tail = max(1, round((published or PAPER_TAIL) * depth))
        second = {1} if published is None and depth > 1 else set()
        return sorted({*range(depth - tail, depth)} | second)

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        if anatomy.heads < 2:
            raise UnsupportedModel(f"{anatomy.model_type} has one head in each layer, so there is none to choose")
        super().check(anatomy, profile)

    def image_free(self, profile: HeadProfile | None) -> BlindMode | None:
        return None if profile is not None or self.heads == "random" else self.blind

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        known: AttentionPlan | None = call.memory.get(call.layer)
        if known is not None or not call.prefill:
            return known
        chosen = self._chosen(call)
        call.tally.note(chosen)
        plan = AttentionPlan(head_gain=call.gains(chosen, self.gain))
        call.memory[call.layer] = plan
        return plan

    def _chosen(self, call: AttentionCall) -> Tensor:
        """Return bool `[B, Hq]`: the heads to reinforce on this layer."""
        chooser = HeadChooser(self.heads, self.outlier_filter, self.squared_norm, self.unbiased_std, self.seed)
        if self.image_free(call.profile) == "lockstep":
            return self._in_lockstep(call, chooser)
        if self.image_free(call.profile) == "two-pass":
            return chooser.select(call, call.unreinforced_output(), call.blind_output())
        return chooser.choose(call)

    def _in_lockstep(self, call: AttentionCall, chooser: HeadChooser) -> Tensor:
        found: list[Tensor] = []

        def rule(blind: Tensor) -> Tensor:
            found.append(chooser.select(call, call.sighted_output(), blind))
            return call.gains(found[0], self.gain)

        call.blind_in_lockstep(rule)
        return found[0]
