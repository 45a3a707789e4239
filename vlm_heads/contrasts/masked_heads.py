"""MaskCD: the stream of a model without its image heads is taken off (Deng and Yang, EMNLP 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from vlm_kernels import AttentionPlan

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.stream_edit import PlannedEdit, SecondStreamCall
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.contrasts.image_heads import ImageHeads
from vlm_heads.families import Anatomy, examine
from vlm_heads.toolkit.head_list import HeadList, HeadListForm
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import require_image_keys


@dataclass(frozen=True)
class MaskedHeads(Contrast):
    """MaskCD: `(1 + alpha) z - alpha z2`, where the second stream's image heads give nothing.

    Image heads are those that give the picture most of their attention. The second stream runs the same prompt with the
    same picture, on all its rows without these heads.

    Formula:
        m[l, i]  = sum over image keys j of w[l, i, j]   after softmax, in the prompt's last row
        masked   = heads                                 the (layer, head) pairs of a list
        masked   = the share of all heads with the highest m   heads "own": each prompt's own
        A2[l, i] <- 0   for (l, i) in masked, in every row of the second stream
        z <- (1 + alpha) * z - alpha * z2   among tokens with p >= bound * max p

    Not established:
        The paper is known at second hand, and its program was not to be had. It finds the image heads once for a model,
        from what its heads give the image while it answers about many pictures, by thresholds that are not known here.
        A list made so goes in as `heads` or `ranking`; `vlm-heads score` writes one with the scorer `image-mass`.
        Heads of each prompt's own, the share, and the values of alpha and bound are ours.
    """

    name: ClassVar[str] = "maskcd"
    label: ClassVar[str] = "MaskCD"
    paper: ClassVar[Paper | None] = Paper(
        "Deng and Yang",
        "MaskCD: Mitigating LVLM Hallucinations by Image Head Masked Contrastive Decoding",
        2025,
        "EMNLP Findings",
        "2510.02790",
    )

    alpha: float = option(1.0, at_least=0.0, neutral=0.0, help="strength of the contrast")
    heads: HeadList = option(
        "own", form=HeadListForm("own"), help='image heads, written as 14.3+17.0; "own" finds each prompt\'s own'
    )
    share: float = option(
        0.1, at_least=0.0, at_most=1.0, help='with heads="own" or a ranking: share of all heads that are masked'
    )
    ranking: str = option(
        "none", help="file that ranks heads, a line [[layer, head], score], the highest masked; or none"
    )

    def check(self, anatomy: Anatomy) -> None:
        super().check(anatomy)
        require_image_keys(anatomy)
        self._heads(anatomy)

    def second_stream(self, asked: Asked) -> SecondStream:
        return asked.again(edit=_WithoutHeads(self._heads(examine(asked.model))))

    def weights(self, step: int) -> tuple[float, float]:
        return 1.0 + self.alpha, -self.alpha

    def _heads(self, anatomy: Anatomy) -> ImageHeads:
        return ImageHeads.of(self.name, anatomy, self.heads, self.ranking, self.share, least=False)


@dataclass(frozen=True)
class _WithoutHeads(PlannedEdit):
    """Lets heads give nothing.

    Attributes:
        heads: which.
    """

    heads: ImageHeads

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return self.heads.layers(anatomy)

    def learnt(self, model: nn.Module, inputs: Mapping[str, Any]) -> Mapping[Any, Any]:
        return self.heads.learnt(model, inputs)

    def plan(self, call: SecondStreamCall) -> AttentionPlan | None:
        known: dict[int, AttentionPlan] = call.memory.setdefault("plans", {})
        if call.layer not in known:
            known[call.layer] = AttentionPlan(head_gain=call.gains(self.heads.chosen(call), 0.0))
        return known[call.layer]
