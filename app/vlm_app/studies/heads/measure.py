"""Measures what every head of a model does on validation scenes of the embedded world.

vlm-heads study heads --model small --write docs/effect.md

A model of L layers with H heads is run 2 L H times over the rows after the pictures, half of it on average: a minute
of one core for a scene with `small` (30 layers of 9 heads), a second with `mini` (8 of 8).

RUN/run.json                 what is measured, so that another is not mixed with it
RUN/scenes-0000-0008/…       a block of scenes; see `blocks`
RUN/heads.json               what it comes to
RUN/heads-MODEL-….png        drawn from it
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from vlm_evals.answer import fingerprint
from vlm_evals.errors import TaskError
from vlm_evals.records import read_json, write_json
from vlm_evals.scenes.world import scenes

from vlm_app.console import progress
from vlm_app.models import load_vlm
from vlm_app.studies.findings.measure import rounded
from vlm_app.studies.heads.answers import at_their_best, bands, directly, ranking, strongest, together
from vlm_app.studies.heads.blocks import GAINS, Block
from vlm_app.studies.heads.effects import ASPECTS, Effects, Numbers, effects, interval
from vlm_app.studies.heads.halves import vhr_layers
from vlm_app.studies.heads.looking import LOOKS
from vlm_app.studies.heads.routes import ROUTES
from vlm_heads import VLM, examine

FILE, RUN = "heads.json", "run.json"
SPLIT = "validation"
TOGETHER = 8  # scenes of a block


def measure_heads(out: Path, *, model: str, images: int, seed: int, device: str | None) -> dict[str, Any]:
    """Measure every head of a model, write heads.json and return what it holds.

    Started again it goes on where it stopped; with more scenes, the blocks of those measured before are kept.

    Args:
        out: folder of the run.
        model: what `load_vlm` takes.
        images: validation scenes.
        seed: draws the scenes, the questions and the resamples.
        device: of the model; a GPU by default if there is one.

    Raises:
        TaskError: if the folder holds another model's run, or another seed's.
    """
    vlm = load_vlm(model, device, seed)
    run = {"model": Path(model).name, "weights": fingerprint(vlm.model)[:8], "seed": seed, "split": SPLIT}
    begin(out, run)
    pictures = list(scenes(SPLIT, seed, images))
    depth = examine(vlm.model).depth
    found = []
    with progress("heads, one by one", images * depth) as advance:
        for start in range(0, images, TOGETHER):
            some = pictures[start : start + TOGETHER]
            folder = out / f"scenes-{start:04d}-{start + len(some):04d}"
            block = Block(vlm, folder, some, start, seed)
            block.measure(advance)
            found.append(block.found())
    whole = rounded({"about": _about(vlm, run, images)} | summary(effects(found, vhr_layers(examine(vlm.model)), seed)))
    write_json(out / FILE, whole)
    return dict(whole)


def summary(found: Effects) -> dict[str, Any]:
    """Return what the means come to, as plain data: the maps of all heads, and the answers."""
    return {
        "counts": dict(found.counts),
        "plain": {aspect: interval(found.values[aspect]) for aspect in ASPECTS},
        "maps": {
            **{name: _map(found.looks[name]) for name in LOOKS},
            **{gain: {aspect: _map(found.changes[gain, aspect]) for aspect in ASPECTS} for gain in GAINS},
            **{route: {aspect: _map(found.told[route, aspect]) for aspect in ASPECTS} for route in ROUTES},
        },
        "strongest": strongest(found),
        "ranking": ranking(found),
        "bands": bands(found),
        "at_their_best": at_their_best(found),
        "directly": directly(found),
        "together": together(found),
    }


def _map(means: Numbers) -> list[list[float]] | None:
    """Return the estimates of all heads; None where nothing was measured."""
    return None if np.isnan(means[0]).any() else means[0].tolist()


def begin(out: Path, run: Mapping[str, Any]) -> None:
    """Write what is measured, or refuse a folder in which something else is."""
    path = out / RUN
    if not path.is_file():
        write_json(path, run)
        return
    kept = read_json(path)
    if kept != run:
        other = ", ".join(
            f"{name} {kept.get(name)}, not {value}" for name, value in run.items() if kept.get(name) != value
        )
        raise TaskError(f"{out} holds a run of {other}: give another folder with --out, or delete this one")


def _about(vlm: VLM, run: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Return when and on what it was measured, without a path of this machine."""
    anatomy = examine(vlm.model)
    return {
        **run,
        "date": datetime.now(UTC).date().isoformat(),
        "scenes": images,
        "layers": anatomy.depth,
        "heads": anatomy.heads,
        "vhr_layers": vhr_layers(anatomy),
    }
