"""AdaIAT: generated text counts for more where a layer reads too little of it (Zhong et al., CVPR 2026)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass

from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.generated_attention import GeneratedAttention
from vlm_heads.toolkit.layer_sets import Layers, layers_option, middle_layers
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.papers import ADAIAT
from vlm_heads.toolkit.row_attention import generated_keys, last_row, row_weights

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile


@dataclass(frozen=True)
class AdaptiveGeneratedBoost(Intervention):
    """AdaIAT: where a layer's attention to generated text is under its threshold, each head's grows by its own ratio.

    A table says how much each head attends to generated text where the model says a true object, and where it invents
    one. `vlm_heads.profiles.generated_attention` makes it from judged answers; the authors' own file is read too. It
    acts on text that was generated, so it cannot change the first token.

    Formula:
        w[l, i, j]   weights after softmax, in the row that predicts a token; G: the generated keys
        r[l]       = sum over heads i of mean over j in G of w[l, i, j]
        t[l]       = invented[l] + between * (grounded[l] - invented[l])   both are sums over heads of the table
        f[l, i]    = 1 + strength * (grounded[l, i] / invented[l, i] - 1)
        w[l, i, j] <- f[l, i] * w[l, i, j]   for j in G where r[l] < t[l]; then all w[l, i, :] / their sum

    Paper and program:
        What both do alike is done here, a negative factor included: a head that attends less for true words than for
        invented ones may be given one. Five heads of the authors' LLaVA-1.5-7B table are, at strength 6. The program
        keeps its sums over heads in half precision, and here they are added up from the table.

    Not established:
        In which row the authors measure. Here it is the row that predicts the word's first token, where it acts.
    """

    name: ClassVar[str] = "adaiat"
    label: ClassVar[str] = "AdaIAT"
    lever: ClassVar[str] = "key weight"
    paper: ClassVar[Paper | None] = ADAIAT
    trial: ClassVar[Mapping[str, Any]] = {"ratio": 1.5, "threshold": 1000.0}
    needs_profile: ClassVar[bool] = True
    needs_image_keys: ClassVar[bool] = False

    strength: float = option(6.0, at_least=0.0, neutral=0.0, help="how far a head's ratio is carried beyond 1")
    between: float = option(
        0.5,
        at_least=0.0,
        at_most=1.0,
        help="where the threshold lies: 0 at the attention of invented words, 1 at that of true ones",
    )
    table: str = option("none", help="file with the attention to generated text of this model, or none")
    ratio: float | Literal["table"] = option("table", at_least=0.0, help="one ratio for all heads, or the table's")
    threshold: float | Literal["table"] = option(
        "table", at_least=0.0, help="one threshold for all layers, or the table's"
    )
    layers: Layers = layers_option(paper="5..17 of 32, in proportion")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        return middle_layers(anatomy.depth)

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        self._factors_and_thresholds(anatomy)
        super().check(anatomy, profile)

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        factors, thresholds = self._factors_and_thresholds(anatomy)
        return nullcontext({"factors": factors, "thresholds": thresholds.tolist()})

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing or call.prefill:
            return None  # nothing is generated yet
        generated = generated_keys(call)
        mass = (row_weights(call) * generated[:, None]).sum(dim=-1)
        read = (mass / generated.sum(dim=-1).clamp_min(1)[:, None]).sum(dim=-1)
        acting = (read < call.memory["thresholds"][call.layer]) & generated.any(dim=-1)
        factor = torch.where(acting[:, None], call.memory["factors"][call.layer].to(mass), 1.0)
        whole = 1.0 + mass * (factor - 1.0)  # what the weights sum to before they are divided by it
        call.tally.note_step((mass * factor / whole - mass).abs())
        gain = (1.0 / whole)[..., None].repeat(1, 1, CLASS_COUNT)
        gain[..., KeyClass.GENERATED] *= factor
        return AttentionPlan(class_gain=gain, rows=last_row(call))

    def _factors_and_thresholds(self, anatomy: Anatomy) -> tuple[Tensor, Tensor]:
        """Return what generated text is multiplied with `[L, Hq]`, and each layer's threshold `[L]`.

        Raises:
            BadProfile: if the table cannot be read.
            BadOption: if there is none and one is needed, or it is of another model.
        """
        shape = (anatomy.depth, anatomy.heads)
        ratio = torch.full(shape, 1.0 if isinstance(self.ratio, str) else self.ratio)
        threshold = torch.full(shape[:1], 0.0 if isinstance(self.threshold, str) else self.threshold)
        if isinstance(self.ratio, str) or isinstance(self.threshold, str):
            table = self._read(shape)
            ratio = table.ratio if isinstance(self.ratio, str) else ratio
            threshold = table.threshold(self.between) if isinstance(self.threshold, str) else threshold
        return 1.0 + self.strength * (ratio - 1.0), threshold

    def _read(self, shape: tuple[int, int]) -> GeneratedAttention:
        if self.table == "none":
            raise BadOption(
                "adaiat takes ratios and thresholds from a table of this model, and has none: write table=FILE, made "
                "by vlm_heads.profiles.generated_attention, or give both as numbers, as ratio=1.5,threshold=0.2"
            )
        table = GeneratedAttention.read(self.table)
        if table.grounded.shape != shape:
            raise BadOption(
                f"table={self.table}: it has {table.grounded.shape[0]} layers of {table.grounded.shape[1]} heads, the "
                f"model has {shape[0]} of {shape[1]}; measure this model's own"
            )
        return table
