"""VTI: what MLPs give is turned towards true captions and towards a steadier picture (Liu et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vlm_heads.directions import Directions, TowerDirections
from vlm_heads.errors import BadOption, UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.steering.base import Site, Steering
from vlm_heads.stream_call import StreamCall, turned
from vlm_heads.toolkit.layer_sets import Layers, layers_option
from vlm_heads.toolkit.method import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.tower import tower_layers

if TYPE_CHECKING:
    from vlm_heads.profile import HeadProfile

_NONE, _RANDOM, _KEPT, _TOWER = "none", "random", "directions", "tower"
_SCALE = 0.1


@dataclass(frozen=True)
class TruthfulDirection(Steering):
    """VTI: turn what MLPs give, the language model's towards true captions, the vision tower's towards a steadier view.

    Both directions are found once, and are your own, made with the model that is asked. One half alone is enough; the
    other stays away while no directions are given for it. Second streams and first passes see the picture as the plain
    tower does. VISTA's passes over the prompt see it turned where it was encoded ahead of them, as `generate` does.

        pairs = read_caption_pairs("pairs.jsonl", images="train2014")
        find_directions(vlm.model, vlm.processor, pairs).save("directions.safetensors")
        pictures = [one.image for one in pairs]
        find_tower_directions(vlm.model, vlm.processor, pictures).save("tower.safetensors")

    all from `vlm_heads.profiles`. The authors' file of pairs is read as it is; its pictures are COCO's.

    Formula:
        d[l]     = mean over pairs of (what layer l leaves at the end of the true caption less at the end of the false
                   one) + the first principal component of these differences, of length 1 over all layers together
        x       <- |x| * unit(unit(x) + 0.1 * strength * unit(d[l]))      x: what the MLP of layer l gives, at all
                                                                             positions
        e[l, t]  = mean over pictures of (the mean over trials of what layer l of the tower leaves at position t of the
                   picture with 99 % of its patches masked, less what it leaves of the whole picture)
                   + a principal component of these differences
        y       <- |y| * unit(unit(y) + 0.1 * vision * unit(e[l, t]))     y: what the MLP of the tower's layer l gives

    Paper and program:
        The program's form is followed. Of the language model's last layer it takes what the last norm gives, and here
        it is what the layer leaves. The component of `d` counts the embeddings too there, and here it does not. A
        masked patch has the picture's mean, 50 trials are drawn, and the strengths are 0.9 each. The component of `e`
        is meant to be one for each position, over all layers. The program lays states out layer by layer before it cuts
        them into as many pieces as there are positions, so that a piece holds neighbouring positions of one layer or
        two; here as there. Each piece's component has length 1. `component=False` leaves components out.

    Not established:
        Which direction print takes of the differences: it has a principal one too. It is known at second hand.
    """

    name: ClassVar[str] = "vti"
    label: ClassVar[str] = "VTI"
    lever: ClassVar[str] = "residual"
    paper: ClassVar[Paper | None] = Paper(
        "Liu et al.",
        "Reducing Hallucinations in Vision-Language Models via Latent Space Steering",
        2025,
        "ICLR",
        "2410.15778",
    )
    trial: ClassVar[Mapping[str, Any]] = {"directions": _RANDOM, "strength": 20.0, "tower": _RANDOM, "vision": 5.0}
    needs_profile: ClassVar[bool] = True

    strength: float = option(0.9, at_least=0.0, neutral=0.0, help="how far, in tenths of the hidden state's length")
    directions: str = option(
        _NONE, help='a file that `find_directions` wrote, or "random", a control that knows nothing'
    )
    layers: Layers = layers_option("all", paper="all")
    vision: float = option(
        0.9, at_least=0.0, neutral=0.0, help="how far in the vision tower, in tenths of its hidden state's length"
    )
    tower: str = option(
        _NONE, help='a file that `find_tower_directions` wrote, or "random", a control that knows nothing'
    )

    @property
    def site(self) -> Site:
        return "mlp"

    @property
    def in_tower(self) -> bool:
        return self.tower != _NONE and self.vision > 0.0

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return frozenset() if self._in_tower_alone else super().layers_in(anatomy)

    def check(self, anatomy: Anatomy, profile: HeadProfile | None) -> None:
        super().check(anatomy, profile)
        self._read(anatomy)

    def prepared(
        self, model: nn.Module, anatomy: Anatomy, profile: HeadProfile | None
    ) -> AbstractContextManager[Mapping[Any, Any]]:
        @contextmanager
        def kept() -> Iterator[Mapping[Any, Any]]:
            known: dict[str, Any] = {}
            if (found := self._read(anatomy)) is not None:
                known[_KEPT] = _units(found.vectors)
            if self.in_tower and self.tower != _RANDOM:
                known[_TOWER] = _units(self._read_tower(model, anatomy).vectors)
            yield known

        return kept()

    def steer(self, call: StreamCall) -> Tensor | None:
        if self.strength == 0.0 or _KEPT not in call.memory:
            return None
        call.note()
        unit: Tensor = call.memory[_KEPT][call.layer]
        return turned(call.leaving, _SCALE * self.strength * unit.to(call.leaving))

    def steer_tower(self, layer: int, leaving: Tensor, known: Mapping[Any, Any]) -> Tensor:
        if leaving.dim() != 3:
            raise UnsupportedModel(
                "vti turns each position of a picture in its own direction, and this vision tower holds the patches of "
                "all pictures in one row, as many as each has"
            )
        unit = known[_TOWER][layer] if _TOWER in known else random_units(layer, leaving.shape[1:])
        if unit.shape != leaving.shape[1:]:
            raise BadOption(
                f"tower directions of {unit.shape[0]} positions and width {unit.shape[1]} do not fit a tower with "
                f"{leaving.shape[1]} positions and width {leaving.shape[2]}: make them with this model and its pictures"
            )
        return turned(leaving, _SCALE * self.vision * unit.to(leaving))

    @property
    def _in_tower_alone(self) -> bool:
        return self.directions == _NONE and self.tower != _NONE

    def _read(self, anatomy: Anatomy) -> Directions | None:
        """Return the directions of the textual half; None where the other half acts alone."""
        if self._in_tower_alone:
            return None
        if self.directions == _NONE:
            raise BadOption(
                "vti needs directions: make them by vlm_heads.profiles.find_directions(model, processor, pairs), save "
                "them, and give directions=FILE; those of the vision tower are tower=FILE"
            )
        found = Directions.random(anatomy) if self.directions == _RANDOM else Directions.load(self.directions)
        found.require(anatomy)
        return found

    def _read_tower(self, model: nn.Module, anatomy: Anatomy) -> TowerDirections:
        found, layers = TowerDirections.load(self.tower), tower_layers(model, anatomy)
        if len(found.vectors) != len(layers):
            raise BadOption(
                f"tower directions of {len(found.vectors)} layers do not fit the vision tower of {anatomy.model_type} "
                f"with {len(layers)} layers: make them with this model"
            )
        return found


def random_units(layer: int, shape: torch.Size) -> Tensor:
    """Return directions `[T, width]` of length 1 for a layer of a vision tower, which know nothing; for a control."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(layer))
    return torch.nn.functional.normalize(drawn, dim=-1)


def _units(vectors: Tensor) -> tuple[Tensor, ...]:
    """Return vectors of length 1 by layer; a tuple is nobody's own, so a branch of a generation keeps it whole."""
    return tuple(torch.nn.functional.normalize(vectors, dim=-1))
