"""Calibration: a reinforced profile chosen on one part of the data and measured on another.

RUNS/data                       the embedded world's pictures, where no --data was given
RUNS/scores                     VHD of every head
RUNS/search/chair/plain, …      the settings tried, each a run directory
RUNS/report/chair/plain, …      the chosen one on the part nothing was chosen on, beside the plain model's curve

Stopped and started again it goes on where it stopped.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from vlm_evals.answer import Asking, Processes, fingerprint
from vlm_evals.data.coco import CocoFolder
from vlm_evals.data.pope_questions import PER_IMAGE
from vlm_evals.errors import TaskError
from vlm_evals.experiment import BIASES, Arm, ask_arms, bias_name, curve_arms
from vlm_evals.protocol import Protocol
from vlm_evals.registry import find_metric
from vlm_evals.reports.pairs import PLAIN, Comparison, compare
from vlm_evals.runs import environment
from vlm_evals.scored import score_run
from vlm_evals.tasks import asked_of, bind

from vlm_app.console import progress, steps
from vlm_app.studies.benefit import judged, measured_table, searched_row
from vlm_app.studies.chosen import CAPTIONS, QUESTIONS
from vlm_heads import HeadProfile, Mitigation, StaticGains, examine, score_heads
from vlm_heads.methods import resolve_layers
from vlm_heads.profiles import GainShape, propose_gains

STRENGTHS = (0.5, 0.8, 1.25, 1.5, 2.0)
LAYERS = ("all", "first-half", "last-half")
SHAPES: tuple[GainShape, ...] = ("graded", "top")


@dataclass(frozen=True)
class Setting:
    """One proposal: what `propose_gains` is asked for."""

    shape: GainShape
    strength: float
    layers: str

    @property
    def name(self) -> str:
        """Folder and row name."""
        return f"{self.shape} {self.strength:g} {self.layers}"


@dataclass(frozen=True)
class Sizes:
    """How much is asked.

    Attributes:
        samples: pictures that heads are scored on.
        trials: settings tried.
        captions: pictures captioned, per part.
        questioned: pictures that questions are asked about, per part.
        max_tokens: tokens a caption may have; None for the protocol's.
    """

    samples: int = 256
    trials: int = 8
    captions: int = 150
    questioned: int = 30
    max_tokens: int | None = None


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        profile: of the chosen setting, with its card.
        search: one row a setting: its differences from plain, and whether it may be chosen.
        benefit: whether a benefit was shown on the reporting part.
        reason: in a sentence.
    """

    profile: HeadProfile
    search: Sequence[Mapping[str, Any]]
    benefit: bool
    reason: str


def settings_to_try(trials: int, seed: int) -> list[Setting]:
    """Return settings drawn from the grid, in the grid's order."""
    grid = [Setting(shape, strength, layers) for shape, strength, layers in product(SHAPES, STRENGTHS, LAYERS)]
    if trials >= len(grid):
        return grid
    return sorted(random.Random(seed).sample(grid, trials), key=grid.index)


def calibrate(
    asking: Asking, data: CocoFolder, template: str, runs: Path, sizes: Sizes, *, seed: int, processes: Processes
) -> Calibration:
    """Return the best setting of a small grid, chosen on one part of the data and measured on another.

    Args:
        asking: the model; its mitigation is not used.
        data: pictures and annotations.
        template: name of a built-in protocol that fits the data.
        runs: where everything asked is kept.
        sizes: how much is asked.
        seed: draws the parts, the settings and the questions.
        processes: those that share the work.

    Raises:
        TaskError: if there are not enough pictures.
    """
    search, report = _parts(data, sizes, seed)
    scores = _scores(asking, search, runs / "scores", sizes.samples, processes)
    tried = settings_to_try(sizes.trials, seed)
    proposed = {setting.name: _proposed(asking, scores, setting) for setting in tried}
    bound = {name: _bound(template, part, sizes, seed) for name, part in (("search", search), ("report", report))}
    tried_all = _measure(asking, proposed, search, bound["search"], runs / "search", processes)
    tables = {metric: one.table() for metric, one in tried_all.items()}
    rows = [searched_row(setting.name, tables) for setting in tried]
    # where nothing may be chosen, the best is still measured; the profile says so
    best = min([row for row in rows if row["kept"]] or rows, key=lambda row: float(row["objective"]))
    chosen = {best["setting"]: proposed[best["setting"]]}
    measured = _measure(asking, chosen, report, bound["report"], runs / "report", processes, curve=True)
    final = {metric: one.pair() for metric, one in measured.items()}
    benefit, reason = judged(final[CAPTIONS], final[QUESTIONS], bool(best["kept"]))
    card = {
        "kind": "reinforced profile",
        "model": asking.vlm.name,
        "revision": getattr(asking.vlm.model.config, "_commit_hash", None),
        "weights": fingerprint(asking.vlm.model),
        "data": data.hashes(),
        "protocols": {f"{metric}, {name}": one.hash for name, both in bound.items() for metric, one in both.items()},
        "setting": asdict(next(one for one in tried if one.name == best["setting"])),
        "seed": seed,
        "search": rows,
        "measured": measured_table(final),
        "verdict": {metric: one["verdict"] for metric, one in final.items()},
        "benefit": benefit,
        "reason": reason,
        "packages": environment()["packages"],
    }
    return Calibration(replace(chosen[best["setting"]], card=card), rows, benefit, reason)


def _parts(data: CocoFolder, sizes: Sizes, seed: int) -> tuple[CocoFolder, CocoFolder]:
    """Return two parts of a data folder that share no picture, drawn by the seed."""
    images = sorted(data.images)
    random.Random(seed).shuffle(images)
    half = len(images) // 2
    parts = data.only(images[:half]), data.only(images[half:])
    captioned = min(len(part.images) for part in parts)
    questioned = min(len(asked_of(QUESTIONS).eligible(part)) for part in parts)
    if captioned < sizes.captions or questioned < sizes.questioned:
        raise TaskError(
            f"each half of the {len(images)} pictures in {data.root} has {captioned} to caption and {questioned} with "
            f"{PER_IMAGE} objects to ask about: lower --captions {sizes.captions} or --questioned {sizes.questioned}"
        )
    return parts


def _bound(template: str, part: CocoFolder, sizes: Sizes, seed: int) -> dict[str, Protocol]:
    tokens = {} if sizes.max_tokens is None else {"max_new_tokens": sizes.max_tokens}
    return {
        CAPTIONS: bind(template, CAPTIONS, part, limit=sizes.captions, seed=seed, **tokens),
        QUESTIONS: bind(template, QUESTIONS, part, limit=sizes.questioned, seed=seed),
    }


def _scores(asking: Asking, part: CocoFolder, folder: Path, samples: int, processes: Processes) -> HeadProfile:
    """Return VHD over pictures of the searched part, taken once and kept."""
    pictures = [str(part.images[image]) for image in sorted(part.images)[:samples]]
    notes = {"weights": fingerprint(asking.vlm.model), "data": part.hashes(), "pictures": len(pictures)}

    def missing() -> bool:
        return not (folder.is_dir() and HeadProfile.from_pretrained(folder).notes == notes)

    def take() -> None:
        with progress("scoring heads", len(pictures)) as advance:
            scored = score_heads(asking.vlm.model, asking.vlm.processor, pictures, progress=steps(advance))
        replace(scored, notes=notes).save_pretrained(folder)

    processes.once(missing, take)
    return HeadProfile.from_pretrained(folder)


def _proposed(asking: Asking, scores: HeadProfile, setting: Setting) -> HeadProfile:
    anatomy = examine(asking.vlm.model)
    layers = resolve_layers(setting.layers, anatomy.depth, range(anatomy.depth)) & anatomy.attentions.keys()
    return propose_gains(scores, setting.strength, layers, setting.shape)


def _measure(
    asking: Asking,
    proposed: Mapping[str, HeadProfile],
    part: CocoFolder,
    bound: Mapping[str, Protocol],
    out: Path,
    processes: Processes,
    *,
    curve: bool = False,
) -> dict[str, Comparison]:
    """Return, for each metric, every proposal compared with the plain model, with its curve where that is asked for."""
    found: dict[str, Comparison] = {}
    for name, protocol in bound.items():
        metric, folder = find_metric(name), out / name
        biases = BIASES if curve and metric.curve is not None else ()
        plain = [Arm(PLAIN), *(curve_arms() if biases else ())]
        arms = [Arm(setting, Mitigation((StaticGains(),), profile=profile)) for setting, profile in proposed.items()]
        ask_arms(asking, protocol, part, [*plain, *arms], folder, processes=processes, progress=progress)
        found[name] = compare(
            metric,
            score_run(folder / PLAIN).scores,
            {setting: score_run(folder / setting).scores for setting in proposed},
            curve={bias: score_run(folder / bias_name(bias)).scores for bias in biases},
            seed=protocol.seed,
        )
    return found
