"""EAH: the head of a shallow layer with the most dense image columns attends for all of it (Zhang et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan, KeyClass

from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.column_attention import column_sums
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import refuse_uncached

Mode = Literal["paper", "code"]
PAPER_THRESHOLD, CODE_THRESHOLD = 0.002, 0.0008


@dataclass(frozen=True)
class DenseHeadCopy(Intervention):
    """EAH: all heads of layer 1 attend as its head with the most dense image columns does, in the prompt.

    Each head keeps its own values; what it attends with is another head's. Nothing changes where no head has a dense
    column. Decode steps are plain. It needs a cache.

    Formula:
        d[i, j] = sum over rows q of the prompt, q != j, of w[i, q, j] / (e - j)   w: weights after softmax; j: an image
                  position, e: one beyond the last of them
        k       = the head i with most positions j where d[i, j] > threshold; the first of those with as many
        A[i]    = w[k] v[i]   for every head i of the layer, in all rows of the prompt

    Paper and program:
        The threshold is 0.002 in the authors' readme and 0.0008 in the program. The program leaves out the first image
        position and divides by e - (j - s), s: the second image position, where d has e - j. It changes nothing where
        head 0 is the densest. Its switch for one layer is true for every layer, so that all of them are overwritten.
        `mode=code` does these four things. With `threshold=auto` each mode takes its own.
    """

    name: ClassVar[str] = "eah"
    label: ClassVar[str] = "EAH"
    lever: ClassVar[str] = "attention pattern"
    paper: ClassVar[Paper | None] = Paper(
        "Zhang et al.",
        "Shallow Focus, Deep Fixes: Enhancing Shallow Layers Vision Attention Sinks to Alleviate Hallucination in "
        "LVLMs",
        2025,
        "EMNLP",
        "2411.09968",
    )

    copied: bool = option(True, neutral=False, help="whether the densest head attends for the others")
    threshold: float | Literal["auto"] = option(
        "auto",
        at_least=0.0,
        help="how much attention makes an image position dense; auto is 0.002, in mode=code 0.0008",
    )
    mode: Mode = option("paper", help='"code" does what the authors\' program does')
    layers: Layers = layers_option(paper="layer 1, with mode=code all")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        return range(anatomy.depth) if self.mode == "code" else [min(1, anatomy.depth - 1)]

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
            return None
        refuse_uncached(call)
        if not call.prefill:
            return None
        counts = self._dense(call).sum(dim=-1)
        most, densest = counts.amax(dim=-1), counts.argmax(dim=-1)
        copying = most > 0
        if self.mode == "code":
            copying = copying & (densest > 0)
        call.tally.note(copying[:, None].expand(counts.shape))
        if not bool(copying.any()):  # waits for the device, at prefill only
            return None
        own = torch.arange(counts.shape[1], device=counts.device)
        return AttentionPlan(head_source=torch.where(copying[:, None], densest[:, None], own))

    def _dense(self, call: AttentionCall) -> Tensor:
        """Return bool `[B, Hq, T]`: the image positions that a head looks at densely."""
        classes = call.key_map.classes
        columns = torch.arange(classes.shape[1], device=classes.device)
        image = classes == KeyClass.IMAGE
        share = call.key_map.after_image[:, None] - columns
        if self.mode == "code":
            padding = (classes == KeyClass.PADDING).int().cumprod(dim=-1).sum(dim=-1, keepdim=True)  # on the left
            first = image & (image.cumsum(dim=-1) == 1)
            image = image & ~first
            share = share - padding + first.int().argmax(dim=-1, keepdim=True) + 1
        density = column_sums(call) / share.clamp_min(1)[:, None]
        threshold = self.threshold
        if isinstance(threshold, str):
            threshold = CODE_THRESHOLD if self.mode == "code" else PAPER_THRESHOLD
        return (density > threshold) & image[:, None]
