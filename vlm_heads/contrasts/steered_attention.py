"""ASCD: a stream that looks less at the picture is taken off one that looks more (Wang et al., AAAI 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from vlm_kernels import AttentionPlan

from vlm_heads.attached.closed_keys import beyond_lowest
from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.attached.stream_edit import PlannedEdit, SecondStreamCall
from vlm_heads.contrasts.base import Asked, Contrast
from vlm_heads.contrasts.image_heads import ImageHeads
from vlm_heads.families import Anatomy, examine
from vlm_heads.toolkit.head_list import HeadList, HeadListForm
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import image_keys, last_row, require_image_keys, row_logits


@dataclass(frozen=True)
class SteeredAttention(Contrast):
    """ASCD: `(1 + alpha) z_good - alpha z_bad`, attention steered to the picture in one stream, off it in the other.

    In the good stream, heads that read the text look at the picture more. In the bad one, every head looks less at the
    image keys that matter most to it. The good stream tells plausible tokens. The plain stream weighs nothing, so no
    intervention goes beside it.

    Formula:
        z[l, i, j]   attention logit before softmax, in the row that predicts a token
        good: z <- z + positive * |z|   for image keys, on text heads
        bad:  z <- z - negative * |z|   for the share `critical` of the image keys with the highest z, on every head
        text heads = heads                  the (layer, head) pairs of a list
        text heads = the share of all heads that give image keys least after softmax, in the prompt's last row
                                            heads "own": each prompt's own
        z <- (1 + alpha) * z_good - alpha * z_bad   among tokens with p >= bound * max p of the good stream

    Paper and program:
        Read in a public program that carries the authors' decoder and settings; the authors' own was not to be had. It
        runs two streams and no plain one. Its text heads are 32 of LLaVA-1.5's 1024, voted for over 500 pictures; a
        list made so goes in as `heads` or `ranking`, and the share is the same. Heads of each prompt's own are ours.
        Its critical keys are the whole part of a tenth of the image keys; here one at least.
    """

    name: ClassVar[str] = "ascd"
    label: ClassVar[str] = "ASCD"
    paper: ClassVar[Paper | None] = Paper(
        "Wang et al.",
        "ASCD: Attention-Steerable Contrastive Decoding for Reducing Hallucination in MLLM",
        2026,
        "AAAI",
        "2506.14766",
    )
    passes: ClassVar[int] = 3
    judge: ClassVar[int] = 1
    weighs_the_first: ClassVar[bool] = False

    positive: float = option(0.625, at_least=0.0, neutral=0.0, help="factor on |z| of image keys in the good stream")
    negative: float = option(1.0, at_least=0.0, neutral=0.0, help="factor on |z| of critical keys in the bad stream")
    critical: float = option(0.1, at_least=0.0, at_most=1.0, help="share of the image keys that are critical to a head")
    heads: HeadList = option(
        "own", form=HeadListForm("own"), help='text heads, written as 14.3+17.0; "own" finds each prompt\'s own'
    )
    share: float = option(
        1 / 32, at_least=0.0, at_most=1.0, help='with heads="own" or a ranking: share of all heads that are text heads'
    )
    ranking: str = option(
        "none", help="file that ranks heads, [[layer, head], score] a line, the lowest taken; or none"
    )
    alpha: float = option(1.0, at_least=0.0, help="strength of the contrast")

    def check(self, anatomy: Anatomy) -> None:
        super().check(anatomy)
        require_image_keys(anatomy)
        self._heads(anatomy)

    def streams(self, asked: Asked) -> tuple[SecondStream, ...]:
        heads = self._heads(examine(asked.model))
        good = asked.again(edit=_LookingMore(heads, self.positive))
        return good, asked.again(edit=_LookingLess(self.critical, self.negative))

    def weights(self, step: int) -> tuple[float, ...]:
        return 0.0, 1.0 + self.alpha, -self.alpha

    def _heads(self, anatomy: Anatomy) -> ImageHeads:
        return ImageHeads.of(self.name, anatomy, self.heads, self.ranking, self.share, least=True)


@dataclass(frozen=True)
class _LookingMore(PlannedEdit):
    """Raises the logits of image keys on some heads, in the row that predicts a token."""

    heads: ImageHeads
    strength: float

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return self.heads.layers(anatomy)

    def learnt(self, model: nn.Module, inputs: Mapping[str, Any]) -> Mapping[Any, Any]:
        return self.heads.learnt(model, inputs)

    def plan(self, call: SecondStreamCall) -> AttentionPlan | None:
        boost = self.heads.chosen(call)[..., None] * image_keys(call)[:, None]
        return AttentionPlan(logit_boost=boost.float() * self.strength, rows=last_row(call))


@dataclass(frozen=True)
class _LookingLess(PlannedEdit):
    """Lowers the logits of each head's highest image keys, in the row that predicts a token."""

    share: float
    strength: float

    def plan(self, call: SecondStreamCall) -> AttentionPlan | None:
        image = image_keys(call)[:, None]
        count = torch.clamp_min((self.share * image.sum(dim=-1, keepdim=True)).floor().long(), 1)
        highest = image & ~beyond_lowest(-row_logits(call), image, count)
        return AttentionPlan(logit_boost=highest.float() * -self.strength, rows=last_row(call))
