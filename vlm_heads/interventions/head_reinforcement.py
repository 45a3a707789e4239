"""VHR, vision-aware head reinforcement: the heads that look at the image count for more (He et al., ACL 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan

from vlm_heads.blind import BlindMode
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit import sensitivity
from vlm_heads.toolkit.layer_sets import Layers, resolve_layers
from vlm_heads.toolkit.options import require_number, require_word

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

HeadChoice = Literal["vhd", "fixed", "bottom", "random"]

PAPER_TAIL = 14 / 32  # of LLaVA-1.5-7B's 32 layers, the last 14 and the second


@dataclass(frozen=True)
class HeadReinforcement(Intervention):
    """VHR: multiply the outputs of the vision-aware heads of a layer, before the output projection.

    The heads are chosen at prefill, layer by layer with earlier layers already reinforced, by how far each head's
    output at the last prompt position moves when the image is removed (VHD, Eq. 4-7); then they are frozen. The gain
    acts on all prompt positions and every later one. Costs one image-free prefill and a multiply.

    Attributes:
        gain: factor on the chosen heads' outputs; 1 changes nothing.
        layers: "paper" (the second layer and the last 14 of 32, in proportion), another layer set, or indices.
        outlier_filter: leave out heads of "negative vision sensitivity" (Eq. 6).
        squared_norm: square the norm in Eq. 6; print leaves it open.
        unbiased_std: divide by n - 1 in Eq. 6; print leaves it open.
        blind: "plain" takes the image-free pass un-reinforced, "lockstep" reinforces both streams with the same
            sets, "two-pass" scores both streams un-reinforced first. The paper does not say.
        heads: "vhd" takes the heads above the layer's median; "fixed" takes them from the profile given to `attach`;
            "bottom" and "random" are controls with as many heads. Given a profile, "vhd" and "bottom" read it too.
        seed: of the random control.

    Raises:
        BadOption: if the gain is negative or not finite, or a word is unknown.
    """

    name: ClassVar[str] = "vhr"
    neutral: ClassVar[Mapping[str, Any]] = {"gain": 1.0}

    gain: float = 2.0
    layers: Layers = "paper"
    outlier_filter: bool = True
    squared_norm: bool = False
    unbiased_std: bool = True
    blind: BlindMode = "plain"
    heads: HeadChoice = "vhd"
    seed: int = 0

    def __post_init__(self) -> None:
        require_number("gain", self.gain, at_least=0.0)
        require_word("blind", self.blind, get_args(BlindMode))
        require_word("heads", self.heads, get_args(HeadChoice))

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        depth = anatomy.depth
        published = anatomy.exceptions.paper_tail
        tail = max(1, round((published or PAPER_TAIL) * depth))
        paper = {*range(depth - tail, depth)} | ({1} if published is None and depth > 1 else set())
        return resolve_layers(self.layers, depth, sorted(paper)) & anatomy.attentions.keys()

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        if anatomy.heads < 2:
            raise UnsupportedModel(f"{anatomy.model_type} has one head in each layer, so there is none to choose")
        if self.heads == "fixed" and profile is None:
            raise BadOption("heads='fixed' takes its heads from a profile: give one to attach(..., profile=...)")

    def image_free(self, profile: HeadProfile | None) -> BlindMode | None:
        return None if profile is not None or self.heads == "random" else self.blind

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        known: AttentionPlan | None = call.memory.get(call.layer)
        if known is not None or not call.prefill or not call.key_map.any_image:
            return known
        chosen = self._chosen(call) & call.key_map.has_image[:, None]
        call.tally.note(chosen)
        plan = AttentionPlan(head_gain=call.gains(chosen, self.gain))
        call.memory[call.layer] = plan
        return plan

    def _chosen(self, call: AttentionCall) -> Tensor:
        """Return bool `[B, Hq]`: the heads to reinforce on this layer."""
        rows, heads = call.query.shape[:2]
        if self.heads == "random":
            # as many as lie above the median of distinct values
            count = torch.full((rows,), heads // 2, device=call.query.device)
            return sensitivity.random_heads(call.query[:, :, 0, 0], count, self.seed, call.layer)
        if call.profile is not None:
            return self._from_profile(call, call.profile).expand(rows, heads)
        if self.blind == "lockstep":
            return self._in_lockstep(call)
        sighted = call.unreinforced_output() if self.blind == "two-pass" else call.sighted_output()
        return self._select(sighted, call.blind_output())

    def _in_lockstep(self, call: AttentionCall) -> Tensor:
        found: list[Tensor] = []

        def rule(blind: Tensor) -> Tensor:
            found.append(self._select(call.sighted_output(), blind) & call.key_map.has_image[:, None])
            return call.gains(found[0], self.gain)

        call.blind_in_lockstep(rule)
        return found[0]

    def _from_profile(self, call: AttentionCall, profile: HeadProfile) -> Tensor:
        awareness = profile.scores[call.layer][None].to(call.query.device)
        surges = None if profile.surges is None else profile.surges[call.layer][None].to(call.query.device)
        return self._of_scores(awareness, surges)

    def _select(self, sighted: Tensor, blind: Tensor) -> Tensor:
        return self._of_scores(
            sensitivity.vision_awareness(sighted, blind), sensitivity.surge(blind, squared=self.squared_norm)
        )

    def _of_scores(self, awareness: Tensor, surges: Tensor | None) -> Tensor:
        filtered = awareness
        if self.outlier_filter and surges is not None:
            filtered = sensitivity.without_outliers(awareness, surges, unbiased=self.unbiased_std)
        chosen = sensitivity.above_median(filtered)
        # the control takes as many, the least aware by their unfiltered score
        return sensitivity.least_aware(awareness, chosen.sum(dim=-1)) if self.heads == "bottom" else chosen
