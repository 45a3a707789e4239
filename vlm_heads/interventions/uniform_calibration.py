"""UAC: attention to the picture is freed of what heads prefer even where it shows nothing (Zhu et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan, KeyClass

from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption, UnsupportedGeneration
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.toolkit.blank_attention import BlankAttention
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import last_row, over_keys

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

_NONE, _RANDOM, _FACTORS = "none", "random", "factors"


@dataclass(frozen=True)
class UniformCalibration(Intervention):
    """UAC: where a head attends to some image position more than to others on a blank picture, it does so less.

    The table is your own, made once with the model that is asked:

        blank_attention(vlm.model, vlm.processor).write("blank.safetensors")

    from `vlm_heads.profiles`. It fits pictures with as many image positions. Several pictures in a prompt are
    calibrated one by one.

    Formula:
        A0[l, i, j]  = weight of head i on layer l for image position j, in the row that predicts the first token, where
                       the picture is blank
        c[l, i, j]   = mean over j of A0[l, i, :] / A0[l, i, j]
        w[l, i, j]  <- w[l, i, j] * c[l, i, j] ^ strength   for image keys j, in the row that predicts a token; then all
                       w[l, i, :] / their sum

    Paper and program:
        The strength is ours; the method has 1. A position with less than a millionth of the mean is left alone.

    Not established:
        The formula is known at second hand, and the authors' program could not be read. So it is not known which
        layers they calibrate, which rows, and whether they divide by the sum. One or a few layers in the middle are
        spoken of: here it is the middle one. The rows are those in which the table is measured.
    """

    name: ClassVar[str] = "uac"
    label: ClassVar[str] = "UAC"
    lever: ClassVar[str] = "key weight"
    paper: ClassVar[Paper | None] = Paper(
        "Zhu et al.",
        "Mitigating Object Hallucinations in Large Vision-Language Models via Attention Calibration",
        2025,
        arxiv="2502.01969",
    )
    trial: ClassVar[Mapping[str, Any]] = {"table": _RANDOM}
    needs_profile: ClassVar[bool] = True

    strength: float = option(1.0, at_least=0.0, neutral=0.0, help="how much of the preference is taken away; 1 is all")
    table: str = option(_NONE, help='a file that `blank_attention` wrote, or "random", a control that knows nothing')
    layers: Layers = layers_option(paper="the middle one")

    def paper_layers(self, anatomy: Anatomy) -> Sequence[int]:
        middle = anatomy.depth // 2
        return [min(anatomy.attentions, key=lambda layer: abs(layer - middle))]

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        super().check(anatomy, profile)
        self._read(anatomy)

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        return nullcontext({_FACTORS: _Factors(self._read(anatomy).calibration ** self.strength)})

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        if self.changes_nothing:
            return None
        call.note_all_heads()
        factors: _Factors = call.memory[_FACTORS]
        weight = factors.at(call.layer, call.query.device)[:, call.once_per_step(self._places)].transpose(0, 1)
        return AttentionPlan(key_weight=weight, rows=last_row(call))

    def _places(self, call: AttentionCall) -> Tensor:
        """Return int64 `[B, Tk]`: each key's place in its picture, counted from 1; 0 for what is no image position.

        Raises:
            UnsupportedGeneration: if a picture has other positions than the table was measured with.
        """
        classes, size = call.key_map.classes, call.memory[_FACTORS].positions
        image = (classes == KeyClass.IMAGE) | (classes == KeyClass.IMAGE_SINK)
        if not call.decoding and self.table != _RANDOM:
            _require_whole_pictures(image, size)
        places = torch.where(image, (image.cumsum(dim=-1) - 1) % size + 1, 0)
        return over_keys(call, places)

    def _read(self, anatomy: Anatomy) -> BlankAttention:
        """Return the table.

        Raises:
            BadProfile: if it cannot be read.
            BadOption: if there is none, or it is of another model.
        """
        if self.table == _NONE:
            raise BadOption(
                "uac needs the model's attention to a blank picture: measure it by "
                "vlm_heads.profiles.blank_attention(model, processor), write it, and give table=FILE"
            )
        if self.table == _RANDOM:
            return BlankAttention.random(anatomy)
        found = BlankAttention.read(self.table)
        if found.weights.shape[:2] != (anatomy.depth, anatomy.heads):
            layers, heads, _ = found.weights.shape
            raise BadOption(
                f"table={self.table}: it has {layers} layers of {heads} heads, the model has {anatomy.depth} of "
                f"{anatomy.heads}; measure this model's own"
            )
        return found


class _Factors:
    """What weights are multiplied by, on each device once; no tensor of its own, as a memory splits these by rows.

    Attributes:
        positions: of a picture.

    Args:
        factors: float32 `[L, Hq, N]`.
    """

    def __init__(self, factors: Tensor) -> None:
        self.positions = factors.shape[2]
        self._table = torch.nn.functional.pad(factors, (1, 0), value=1.0)  # place 0: what is no image position
        self._moved: dict[tuple[int, torch.device], Tensor] = {}

    def at(self, layer: int, device: torch.device) -> Tensor:
        """Return a layer's factors `[Hq, 1 + N]`."""
        found = self._moved.get((layer, device))
        if found is None:
            found = self._moved[layer, device] = self._table[layer].to(device)
        return found


def _require_whole_pictures(image: Tensor, size: int) -> None:
    counts: list[int] = image.sum(dim=1).tolist()  # waits for the device, once per prompt
    if other := [count for count in counts if count % size]:
        raise UnsupportedGeneration(
            f"uac's table was measured with a picture of {size} image positions, and a prompt has {other[0]}: measure "
            "one with a blank picture of this size, or give pictures of one size"
        )
