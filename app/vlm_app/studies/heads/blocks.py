"""One block of scenes, measured and kept: its captions, the plain model, and every layer's heads one by one.

FOLDER/captions.json    what the model says of the scenes
FOLDER/plain.json       where it decides, and what its heads look at and tell there
FOLDER/layer-00.json    what changes at every place with each head of the layer switched off, and doubled
FOLDER/together.json    the same with all vision-aware heads at once, and with as many of the least aware

Each file is written whole or not at all. Started again, a block goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vlm_evals.errors import EvaluationError
from vlm_evals.records import read_json, write_json
from vlm_evals.scenes.world import Scene

from vlm_app.studies.findings.captions import Caption, greedy_captions
from vlm_app.studies.findings.measure import rounded
from vlm_app.studies.heads.asked import QUESTIONS, Beginning, Rows, beginning_of, caption_rows, question_rows
from vlm_app.studies.heads.halves import chosen_by_vhd, vhr_layers
from vlm_app.studies.heads.looking import looks
from vlm_app.studies.heads.reading import Reading
from vlm_app.studies.heads.rerun import Rerun, cached
from vlm_app.studies.heads.routes import ROUTES, routes
from vlm_app.studies.heads.words import object_tokens
from vlm_heads import VLM, examine

GAINS = {"ablation": 0.0, "doubling": 2.0}

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Block:
    """Scenes that are measured together.

    Attributes:
        vlm: the model, not attached.
        folder: where everything is kept.
        pictures: the scenes.
        start: number of the first among all.
        seed: draws what is asked.
    """

    vlm: VLM
    folder: Path
    pictures: Sequence[Scene]
    start: int
    seed: int

    def measure(self, advance: Advance = lambda count: None) -> None:
        """Measure what is not kept yet; `advance` hears how many scenes have passed a layer."""
        if not self._plain.is_file():
            write_json(self._plain, rounded(self._of_plain()))
        if not self._together.is_file():
            write_json(self._together, rounded(self._of_halves()))
        for layer, path in self._layers.items():
            if not path.is_file():
                write_json(path, rounded(self._of_layer(layer)))
            advance(len(self.pictures))

    def found(self) -> dict[str, Any]:
        """Return what is kept: the plain model's; `together`; and by gain the changes of all layers, `[L][Hq][n]`."""
        layers = [read_json(path) for path in self._layers.values()]
        changes = {name: [layer[name] for layer in layers] for name in GAINS}
        return {**read_json(self._plain), "together": read_json(self._together), **changes}

    @cached_property
    def rows(self) -> list[Rows]:
        """What is asked: captions, and questions where the model's vocabulary has answers to them.

        Raises:
            EvaluationError: if there is neither.
        """
        asked = [caption_rows(self.vlm, self.beginning, self.pictures, self._captions())]
        asked += [
            question_rows(self.vlm, self.beginning, self.pictures, kind, self.seed, self.start) for kind in QUESTIONS
        ]
        if found := [rows for rows in asked if rows is not None]:
            return found
        raise EvaluationError(
            f"{self.vlm.name} names no object in {len(self.pictures)} captions, and no token of it begins yes or no: "
            "there is nothing to measure heads by"
        )

    def _captions(self) -> list[Caption]:
        path = self.folder / "captions.json"
        if not path.is_file():
            write_json(path, {"captions": [asdict(one) for one in greedy_captions(self.vlm, self.pictures)]})
        return [Caption(tuple(one["ids"]), tuple(one["chances"]), one["text"]) for one in read_json(path)["captions"]]

    def _of_plain(self) -> dict[str, Any]:
        objects = object_tokens(self.vlm.processor.tokenizer)
        told = [routes(self.vlm, self.beginning, rows, self._reading, objects) for rows in self.rows]
        values = [value for plain in self._plain_values for value in plain.tolist()]
        places = [place for rows in self.rows for place in rows.places]
        return {
            "scenes": len(self.pictures),
            "places": [
                {"kind": place.kind, "scene": place.scene, "node": place.node, "value": value}
                for place, value in zip(places, values, strict=True)
            ],
            **{name: seen.tolist() for name, seen in looks(self.vlm, self.pictures).items()},
            **{route: torch.cat([one[route] for one in told], dim=-1).tolist() for route in ROUTES},
        }

    def _of_layer(self, layer: int) -> dict[str, Any]:
        """Return by gain what changes at every place with each head of a layer, `[Hq][n]`; 0 in one without heads."""
        anatomy = examine(self.vlm.model)
        if layer not in anatomy.attentions:
            none = [[0.0] * sum(len(rows.places) for rows in self.rows)] * anatomy.heads
            return dict.fromkeys(GAINS, none)
        each = torch.eye(anatomy.heads, dtype=torch.bool).expand(len(self.pictures), -1, -1)
        return {
            name: [self._changes({layer: each[:, head]}, gain) for head in range(anatomy.heads)]
            for name, gain in GAINS.items()
        }

    def _of_halves(self) -> dict[str, Any]:
        """Return by gain and half what changes at every place where all heads of the half are gained at once, `[n]`."""
        vhd = np.array(read_json(self._plain)["vhd"])
        chosen = chosen_by_vhd(vhd, vhr_layers(examine(self.vlm.model)))
        return {
            name: {
                half: self._changes(
                    {layer: torch.tensor(heads[layer].T) for layer in range(len(vhd)) if heads[layer].any()}, gain
                )
                for half, heads in chosen.items()
            }
            for name, gain in GAINS.items()
        }

    def _changes(self, heads: Mapping[int, Tensor], gain: float) -> list[float]:
        """Return what changes at every place with a gain on some heads, bool `[S, Hq]` by layer."""
        gains = {layer: torch.where(chosen, gain, 1.0) for layer, chosen in heads.items()}
        return [
            value
            for rerun, plain in zip(self._reruns, self._plain_values, strict=True)
            for value in (self._values(rerun, rerun.changed(gains)) - plain).tolist()
        ]

    def _values(self, rerun: Rerun, states: Tensor) -> Tensor:
        return self._reading.values(states, rerun.rows.places)

    @cached_property
    def beginning(self) -> Beginning:
        """What all that is asked of the scenes begins with."""
        return beginning_of(self.vlm, self.pictures)

    @cached_property
    def _reading(self) -> Reading:
        return Reading(self.vlm)

    @cached_property
    def _reruns(self) -> list[Rerun]:
        cache = cached(self.vlm, self.beginning)
        return [Rerun(self.vlm, cache, self.beginning, rows) for rows in self.rows]

    @cached_property
    def _plain_values(self) -> list[Tensor]:
        return [self._values(rerun, rerun.plain) for rerun in self._reruns]

    @property
    def _plain(self) -> Path:
        return self.folder / "plain.json"

    @property
    def _together(self) -> Path:
        return self.folder / "together.json"

    @property
    def _layers(self) -> dict[int, Path]:
        return {layer: self.folder / f"layer-{layer:02d}.json" for layer in range(examine(self.vlm.model).depth)}
