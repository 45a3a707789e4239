"""Measures what a gain on the image's route does to each word, by the layers that it acts on, and where it goes.

vlm-heads study route --model mini --images 200 --write docs/route_gain.md

The plain model's own captions, and POPE's questions, are read again token by token with the image's route gained: on
all heads of a few layers at a time, and of all layers.

RUN/run.json                   what is measured, so that another is not mixed with it
RUN/captions-0000-0008.json    what the model says of a block of scenes
RUN/scenes-0000-0008.json      what becomes of every place of it
RUN/route.json                 what it comes to
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from vlm_evals.answer import fingerprint
from vlm_evals.errors import EvaluationError
from vlm_evals.records import write_json
from vlm_evals.scenes.world import scenes

from vlm_app.console import progress
from vlm_app.models import load_vlm
from vlm_app.studies.findings.measure import rounded
from vlm_app.studies.heads.asked import QUESTIONS, Beginning, Rows, beginning_of, caption_rows, question_rows
from vlm_app.studies.heads.kept_scenes import KeptScenes
from vlm_app.studies.heads.measure import SPLIT, begin
from vlm_app.studies.heads.reading import Reading
from vlm_app.studies.route.again import Again, stops
from vlm_app.studies.route.summary import summary
from vlm_heads import examine

FILE = "route.json"
TOGETHER = 8  # scenes of a block
MOST_BANDS = 10


def measure_route(out: Path, *, model: str, images: int, gain: float, seed: int, device: str | None) -> dict[str, Any]:
    """Measure a model, write route.json and return what it holds.

    Started again it goes on where it stopped.

    Args:
        out: folder of the run.
        model: what `load_vlm` takes.
        images: validation scenes.
        gain: on the image's route.
        seed: draws the scenes, the questions and the resamples.
        device: of the model; a GPU by default if there is one.

    Raises:
        TaskError: if the folder holds another model's run, another gain's, or another seed's.
        EvaluationError: if no caption names an object.
    """
    vlm = load_vlm(model, device, seed)
    run = {
        "model": Path(model).name, "weights": fingerprint(vlm.model)[:8], "seed": seed, "split": SPLIT, "gain": gain,
    }  # fmt: skip
    begin(out, run)
    bands = bands_of(examine(vlm.model).depth)
    pictures = list(scenes(SPLIT, seed, images))
    blocks = []
    with progress("scenes", images) as advance:
        for start in range(0, images, TOGETHER):
            block = _Block(vlm, out, pictures[start : start + TOGETHER], start, seed, gain, bands)
            blocks.append(block.found())
            advance(len(block.pictures))
    about = {**run, "scenes": images, "layers": examine(vlm.model).depth, "bands": [[one[0], one[-1]] for one in bands]}
    found: dict[str, Any] = rounded({"about": about} | summary(blocks, bands, gain, seed))
    write_json(out / FILE, found)
    return found


def bands_of(depth: int) -> list[range]:
    """Return bands of neighbouring layers, at most `MOST_BANDS`: one layer each where there are so few."""
    width = -(-depth // MOST_BANDS)
    return [range(start, min(start + width, depth)) for start in range(0, depth, width)]


@dataclass(frozen=True)
class _Block(KeptScenes):
    """Scenes that are measured together; what is found is kept in a file."""

    gain: float
    bands: Sequence[range]

    def measured(self) -> dict[str, Any]:
        """Return `places`, `told` `[L][n]`, and by name of what is gained, in the order of places, what is said."""
        parts = [self._of(rows) for rows in self._rows()]
        names = parts[0]["under"].keys()
        return {
            "places": [place for part in parts for place in part["places"]],
            "told": torch.cat([torch.tensor(part["told"]) for part in parts], dim=1).tolist(),
            "under": {
                name: {
                    figure: [value for part in parts for value in part["under"][name][figure]]
                    for figure in ("values", "against", "shares")
                }
                for name in names
            },
        }

    def _rows(self) -> list[Rows]:
        """Return the captions, with where they may end, and the questions that the model's vocabulary has answers to.

        Raises:
            EvaluationError: if no caption names an object.
        """
        captions = self.captions()
        rows = caption_rows(self.vlm, self._beginning, self.pictures, captions, others=True)
        if rows is None:
            raise EvaluationError(f"{self.vlm.name} names no object in {len(self.pictures)} captions")
        prompt = int(_first_columns(rows).min()) + 1
        asked = [
            question_rows(self.vlm, self._beginning, self.pictures, kind, self.seed, self.start) for kind in QUESTIONS
        ]
        whole = stops(self.vlm, rows, [caption.ids for caption in captions], prompt)
        return [whole, *(one for one in asked if one is not None)]

    def _of(self, rows: Rows) -> dict[str, Any]:
        again = Again(self.vlm, self._beginning, rows, self.pictures, Reading(self.vlm), _first_columns(rows))
        layers = {"plain": range(0)} | {f"band {number}": band for number, band in enumerate(self.bands)}
        layers["all"] = range(examine(self.vlm.model).depth)
        return {
            "places": [{"kind": place.kind, "scene": self.start + place.scene} for place in rows.places],
            "told": again.told(),
            "under": {name: again.under(chosen, self.gain) for name, chosen in layers.items()},
        }

    @cached_property
    def _beginning(self) -> Beginning:
        return beginning_of(self.vlm, self.pictures)


def _first_columns(rows: Rows) -> torch.Tensor:
    """Return int64 `[S]`: where each row is first decided on, its prompt's last column; they are alike for captions."""
    columns: dict[int, int] = {}
    for place in rows.places:
        columns[place.scene] = min(place.column, columns.get(place.scene, place.column))
    return torch.tensor([columns.get(number, min(columns.values())) for number in range(len(rows.ids))])
