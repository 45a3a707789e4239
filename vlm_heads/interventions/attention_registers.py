"""FarSight: keys that are still to come take a share of attention and add nothing (Tang et al., CVPR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from vlm_kernels import AttentionPlan, KeyClass

from vlm_heads.call import AttentionCall
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option

Mode = Literal["paper", "code"]


@dataclass(frozen=True)
class AttentionRegisters(Intervention):
    """FarSight: positions behind a row are registers, which take weight in softmax that decays with their distance.

    All registers of a row together are one empty key. The newest row has none, so a decode step is plain, and the
    prompt's rows are changed. With a cache each row keeps the registers that it had when it was new. Without one
    (`use_cache=False`, as the authors generate) every step gives all rows the registers of the sequence so far, so the
    two ways say different things.

    Formula:
        c[i]       = strength * sum over later positions k of e^(-decay * (k - i))   up to the sequence's last position
        w[l, i, j] = e^z[l, i, j] / (c[i] + sum over keys k of e^z[l, i, k])   z: logits; in every row i and head
        with mode=code decay is, in head h of H and row i of n:
        decay * (1 - i / (4 (n - 1))) + 2^(-8 (h + 1) / H)

    Paper and program:
        `mode=paper` has one decay for all. The program that the authors evaluate on CHAIR with takes the mean of it and
        of one that falls to half along the rows, and adds a slope for each head; `mode=code` is that. Where
        transformers hands it a causal mask, as its eager attention does, the mask closes the registers and the program
        is the plain model. A second program of theirs has no registers at all and is another method. Theirs count
        padding; here a row counts from its first token.

    Not established:
        Whether print decays by head. `strength` is ours; theirs is 1.
    """

    name: ClassVar[str] = "farsight"
    label: ClassVar[str] = "FarSight"
    lever: ClassVar[str] = "attention pattern"
    paper: ClassVar[Paper | None] = Paper(
        "Tang et al.",
        "Seeing Far and Clearly: Mitigating Hallucinations in MLLMs with Attention Causal Decoding",
        2025,
        "CVPR",
        "2505.16652",
    )

    strength: float = option(1.0, at_least=0.0, neutral=0.0, help="factor on the weight of all registers")
    decay: float = option(
        0.8, at_least=0.01, help="how fast a register's logit falls with distance; log 256 / log 1024"
    )
    mode: Mode = option("paper", help='"code" lets the decay depend on row and head, as the authors\' program does')
    layers: Layers = layers_option(paper="all")

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing or call.decoding:
            return None
        call.note_all_heads()
        return AttentionPlan(empty_key=call.once_per_step(self._registers))

    def _registers(self, call: AttentionCall) -> Tensor:
        """Return the registers' weight `[B, 1 or Hq, Tq]`: the sum of a geometric series, 0 at padding."""
        rows, length = call.query.shape[2], call.key_map.length
        present = call.key_map.classes[:, length - rows :] != KeyClass.PADDING
        place = present.cumsum(dim=-1) - 1
        last = present.sum(dim=-1, keepdim=True) - 1
        decay = self._decays(call, place, last)
        later = (last - place)[:, None] * (present & call.key_map.has_image[:, None])[:, None]
        return self.strength * -torch.expm1(-decay * later) / torch.expm1(decay)

    def _decays(self, call: AttentionCall, place: Tensor, last: Tensor) -> Tensor:
        """Return the decay `[B, 1 or Hq, Tq]`, or `[1, 1, 1]` of the paper, by a row's place and the last one."""
        if self.mode == "paper":
            return torch.full((1, 1, 1), self.decay, device=place.device)
        heads = call.query.shape[1]
        slopes = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1, device=place.device))
        falling = self.decay * (1.0 - place / (4.0 * last.clamp_min(1)))
        return falling[:, None] + slopes[:, None]
