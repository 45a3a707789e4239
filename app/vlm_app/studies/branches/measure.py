"""Measures, layer by layer, what is lost where the text no longer sees the image from a layer on.

vlm-heads study branches --model mini --images 100 --write docs/effect.md

The plain model's own captions are read again token by token, once for every layer at which the second stream of
BranchContrast could leave the first. A stream that leaves late has taken much from the image below.

RUN/run.json                   what is measured, so that another is not mixed with it
RUN/captions-0000-0008.json    what the model says of a block of scenes
RUN/scenes-0000-0008.json      what is lost at every place of it, by layer
RUN/branches.json              what it comes to
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vlm_evals.answer import fingerprint
from vlm_evals.errors import EvaluationError
from vlm_evals.records import write_json
from vlm_evals.scenes.world import scenes

from vlm_app.console import progress
from vlm_app.models import load_vlm
from vlm_app.studies.branches.summary import summary
from vlm_app.studies.findings.measure import rounded
from vlm_app.studies.heads.asked import QUESTIONS, Rows, beginning_of, caption_rows, question_rows
from vlm_app.studies.heads.kept_scenes import KeptScenes
from vlm_app.studies.heads.measure import SPLIT, begin
from vlm_app.studies.heads.reading import Reading, values_of
from vlm_app.studies.heads.rerun import Rerun, cached
from vlm_heads import examine
from vlm_heads.methods import known_contrasts

FILE = "branches.json"
TOGETHER = 8  # scenes of a block


def measure_branches(out: Path, *, model: str, images: int, seed: int, device: str | None) -> dict[str, Any]:
    """Measure a model, write branches.json and return what it holds.

    Started again it goes on where it stopped.

    Args:
        out: folder of the run.
        model: what `load_vlm` takes.
        images: validation scenes.
        seed: draws the scenes, the questions and the resamples.
        device: of the model; a GPU by default if there is one.

    Raises:
        TaskError: if the folder holds another model's run, or another seed's.
        EvaluationError: if no caption names an object.
    """
    vlm = load_vlm(model, device, seed)
    run = {"model": Path(model).name, "weights": fingerprint(vlm.model)[:8], "seed": seed, "split": SPLIT}
    begin(out, run)
    pictures = list(scenes(SPLIT, seed, images))
    with progress("scenes", images) as advance:
        blocks = []
        for start in range(0, images, TOGETHER):
            block = _Block(vlm, out, pictures[start : start + TOGETHER], start, seed)
            blocks.append(block.found())
            advance(len(block.pictures))
    depth = examine(vlm.model).depth
    about = {**run, "scenes": images, "layers": depth, "weight": _contrast().weight}
    found: dict[str, Any] = rounded({"about": about} | summary(blocks, depth, seed))
    write_json(out / FILE, found)
    return found


def _contrast() -> Any:
    return known_contrasts()["branch"]()


@dataclass(frozen=True)
class _Block(KeptScenes):
    """Scenes that are measured together; what is found is kept in a file."""

    def measured(self) -> dict[str, Any]:
        beginning, reading = beginning_of(self.vlm, self.pictures), Reading(self.vlm)
        cache = cached(self.vlm, beginning)
        captions = caption_rows(self.vlm, beginning, self.pictures, self.captions(), others=True)
        if captions is None:
            raise EvaluationError(f"{self.vlm.name} names no object in {len(self.pictures)} captions")
        asked = [question_rows(self.vlm, beginning, self.pictures, kind, self.seed, self.start) for kind in QUESTIONS]
        places, lost, changed = list[dict[str, Any]](), list[Tensor](), Tensor()
        for rows in [captions, *(rows for rows in asked if rows is not None)]:
            by_layer, turned = _losses(Rerun(self.vlm, cache, beginning, rows), rows, reading)
            places += [{"kind": place.kind, "scene": self.start + place.scene} for place in rows.places]
            lost.append(by_layer)
            changed = turned if rows is captions else changed
        other = [number for number, place in enumerate(captions.places) if place.kind == "other"]
        return {"places": places, "lost": torch.cat(lost, dim=1).tolist(), "changed": changed[:, other].tolist()}


def _losses(rerun: Rerun, rows: Rows, reading: Reading) -> tuple[Tensor, Tensor]:
    """Return `[L, n]` by layer: what is lost at every place, and 1 where the contrast would say another word."""
    plain = reading.log_chances(rerun.plain)
    values, lost, changed = values_of(plain, rows.places), list[Tensor](), list[Tensor]()
    contrast = _contrast()
    weight, bound = contrast.weight, contrast.bound
    for start in range(rerun.depth):
        second = reading.log_chances(rerun.blind_from(start))
        lost.append(values - values_of(second, rows.places))
        allowed = plain >= plain.amax(-1, keepdim=True) + torch.tensor(bound).log()
        said = (plain + weight * (plain - second)).where(allowed, float("-inf")).argmax(-1)
        changed.append((said != plain.argmax(-1)).float())
    return torch.stack(lost), torch.stack(changed)
