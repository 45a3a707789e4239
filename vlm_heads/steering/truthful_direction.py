"""VTI: what MLPs give is turned from invented captions towards true ones (Liu et al., ICLR 2025); its textual half."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vlm_heads.directions import Directions
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.steering.base import Site, Steering
from vlm_heads.stream_call import StreamCall, turned
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

_NONE, _RANDOM, _KEPT = "none", "random", "directions"
_SCALE = 0.1


@dataclass(frozen=True)
class TruthfulDirection(Steering):
    """VTI: turn what every MLP gives towards true captions, by directions found once from pairs of captions.

    The directions are your own, made with the model that is asked:

        pairs = read_caption_pairs("pairs.jsonl", images="train2014")
        find_directions(vlm.model, vlm.processor, pairs).save("directions.safetensors")

    both from `vlm_heads.profiles`. The authors' file of pairs is read as it is; its pictures are COCO's.

    Formula:
        d[l]  = mean over pairs of (what layer l leaves at the end of the true caption less at the end of the false one)
                + the first principal component of these differences, of length 1 over all layers together
        x    <- |x| * unit(unit(x) + 0.1 * strength * unit(d[l]))   x: what the MLP of layer l gives, at all positions

    Paper and program:
        Only the textual half is here. The other half turns the vision tower's MLPs by the mean effect of masking
        patches, and is missing. The program's form is followed; the paper's direction is not established. Of the last
        layer the program takes what the last norm gives, and here it is what the layer leaves. Its principal component
        counts the embeddings too, and this one does not.
    """

    name: ClassVar[str] = "vti"
    label: ClassVar[str] = "VTI, textual half"
    lever: ClassVar[str] = "residual"
    paper: ClassVar[Paper | None] = Paper(
        "Liu et al.",
        "Reducing Hallucinations in Vision-Language Models via Latent Space Steering",
        2025,
        "ICLR",
        "2410.15778",
    )
    trial: ClassVar[Mapping[str, Any]] = {"directions": _RANDOM, "strength": 20.0}
    needs_profile: ClassVar[bool] = True

    strength: float = option(0.9, at_least=0.0, neutral=0.0, help="how far, in tenths of the hidden state's length")
    directions: str = option(
        _NONE, help='a file that `find_directions` wrote, or "random", a control that knows nothing'
    )
    layers: Layers = layers_option("all", paper="all")

    @property
    def site(self) -> Site:
        return "mlp"

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        super().check(anatomy, profile)
        self._read(anatomy)

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        @contextmanager
        def kept() -> Iterator[Mapping[Any, Any]]:
            units = torch.nn.functional.normalize(self._read(anatomy).vectors, dim=-1)
            yield {_KEPT: tuple(units)}  # a tuple is nobody's own, so a branch of a generation keeps it whole

        return kept()

    def steer(self, call: StreamCall) -> Tensor | None:
        if self.changes_nothing:
            return None
        call.note()
        unit: Tensor = call.memory[_KEPT][call.layer]
        return turned(call.leaving, _SCALE * self.strength * unit.to(call.leaving))

    def _read(self, anatomy: Anatomy) -> Directions:
        if self.directions == _NONE:
            raise BadOption(
                "vti needs directions: make them by vlm_heads.profiles.find_directions(model, processor, pairs), save "
                "them, and give directions=FILE"
            )
        found = Directions.random(anatomy) if self.directions == _RANDOM else Directions.load(self.directions)
        found.require(anatomy)
        return found
