"""Calibration: a reinforced profile chosen on one part of the data and measured on another.

RUNS/data                       the embedded world's pictures, where no --data was given
RUNS/scores                     a score of every head, VHD by default
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

from vlm_evals.answer import Processes, fingerprint
from vlm_evals.data.coco import CocoFolder
from vlm_evals.endpoint.asking import Asker, EndpointAsking
from vlm_evals.errors import TaskError
from vlm_evals.protocol import DESCRIBE
from vlm_evals.runs import environment

from vlm_app.console import progress, steps
from vlm_app.scored_on.examples import About
from vlm_app.scored_on.shown import of_folder
from vlm_app.scored_on.source import Samples
from vlm_app.studies.benefit import judged, measured_table, searched_row
from vlm_app.studies.chosen import CAPTIONS, QUESTIONS
from vlm_app.studies.halves import halves, measure, protocols
from vlm_heads import VLM, HeadProfile, Mitigation, StaticGains, examine
from vlm_heads.methods import resolve_layers
from vlm_heads.profiles import GainShape, propose_gains
from vlm_heads.scorers import Sample, Scorer, parse_scorer

STRENGTHS = (0.5, 0.8, 1.25, 1.5, 2.0)
LAYERS = ("all", "first-half", "last-half")
SHAPES: tuple[GainShape, ...] = ("graded", "top")
DEFAULT_SCORER = parse_scorer("vhd")


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
    vlm: VLM,
    asking: Asker,
    data: CocoFolder,
    template: str,
    runs: Path,
    sizes: Sizes,
    *,
    seed: int,
    processes: Processes,
    scorer: Scorer = DEFAULT_SCORER,
    about: About | None = None,
) -> Calibration:
    """Return the best setting of a small grid, chosen on one part of the data and measured on another.

    Args:
        vlm: the model, whose heads are scored here.
        asking: the same model, or a server that serves it and knows mitigations; its own mitigation is not used.
        data: pictures and annotations.
        template: name of a built-in protocol that fits the data.
        runs: where everything asked is kept.
        sizes: how much is asked.
        seed: draws the parts, the settings and the questions.
        processes: those that share the work.
        scorer: scores the heads, on pictures of the searched part.
        about: what a scorer's samples are about; None for its own choice.

    Raises:
        TaskError: if there are not enough pictures, or a server has other weights.
    """
    weights = fingerprint(vlm.model)
    if isinstance(asking, EndpointAsking) and asking.weights != weights:
        raise TaskError(f"{asking.where} does not serve the weights of {vlm.name}: start vlm-heads serve {vlm.name}")
    search, report = halves(data, captions=sizes.captions, questioned=sizes.questioned, seed=seed)
    scores = _scores(vlm, search, runs / "scores", sizes.samples, processes, scorer, about, seed)
    tried = settings_to_try(sizes.trials, seed)
    profiles = {setting.name: _proposed(vlm, scores, setting) for setting in tried}
    inline = isinstance(asking, EndpointAsking)  # a server is sent words, and no profile
    proposed = {name: _listed(profile) if inline else _reading(profile) for name, profile in profiles.items()}
    bound = {
        name: protocols(
            template, part, captions=sizes.captions, questioned=sizes.questioned, max_tokens=sizes.max_tokens, seed=seed
        )
        for name, part in (("search", search), ("report", report))
    }
    tried_all = measure(asking, proposed, search, bound["search"], runs / "search", processes)
    tables = {metric: one.table() for metric, one in tried_all.items()}
    rows = [searched_row(setting.name, tables) for setting in tried]
    # where nothing may be chosen, the best is still measured; the profile says so
    best = min([row for row in rows if row["kept"]] or rows, key=lambda row: float(row["objective"]))
    chosen = {best["setting"]: proposed[best["setting"]]}
    measured = measure(asking, chosen, report, bound["report"], runs / "report", processes, curve=True)
    final = {metric: one.pair() for metric, one in measured.items()}
    benefit, reason = judged(final[CAPTIONS], final[QUESTIONS], bool(best["kept"]))
    card = {
        "kind": "reinforced profile",
        "model": vlm.name,
        "revision": getattr(vlm.model.config, "_commit_hash", None),
        "weights": weights,
        "data": data.hashes(),
        "protocols": {f"{metric}, {name}": one.hash for name, both in bound.items() for metric, one in both.items()},
        "scorer": scorer.word(),
        "setting": asdict(next(one for one in tried if one.name == best["setting"])),
        "seed": seed,
        "search": rows,
        "measured": measured_table(final),
        "verdict": {metric: one["verdict"] for metric, one in final.items()},
        "benefit": benefit,
        "reason": reason,
        "packages": environment()["packages"],
    }
    return Calibration(replace(profiles[best["setting"]], card=card), rows, benefit, reason)


def _scores(
    vlm: VLM,
    part: CocoFolder,
    folder: Path,
    samples: int,
    processes: Processes,
    scorer: Scorer,
    about: About | None,
    seed: int,
) -> HeadProfile:
    """Return heads' scores over pictures of the searched part, taken once and kept."""
    pictures = [part.images[image] for image in sorted(part.images)[:samples]]
    notes: dict[str, Any] = {"weights": fingerprint(vlm.model), "data": part.hashes(), "pictures": len(pictures)}
    if (scorer, about) != (DEFAULT_SCORER, None):
        notes |= {"scorer": scorer.word(), "about": about, "seed": seed}

    def missing() -> bool:
        return not (folder.is_dir() and HeadProfile.from_pretrained(folder).notes == notes)

    def take() -> None:
        given: Sequence[Sample] = pictures
        if scorer.needs != "pictures" or about is not None:
            shown = of_folder(part, seed, min(samples, sum(map(bool, part.objects.values()))))
            given = Samples(vlm, DESCRIBE, shown=shown, about=about, seed=seed).of(scorer)
        with progress("scoring heads", len(given)) as advance:
            scored = scorer.score(vlm.model, vlm.processor, given, progress=steps(advance))
        replace(scored, notes=notes).save_pretrained(folder)

    processes.once(missing, take)
    return HeadProfile.from_pretrained(folder)


def _proposed(vlm: VLM, scores: HeadProfile, setting: Setting) -> HeadProfile:
    anatomy = examine(vlm.model)
    layers = resolve_layers(setting.layers, anatomy.depth, range(anatomy.depth)) & anatomy.attentions.keys()
    return propose_gains(scores, setting.strength, layers, setting.shape)


def _reading(profile: HeadProfile) -> Mitigation:
    """Return the gains of a profile as a mitigation that reads them from it."""
    return Mitigation((StaticGains(),), profile=profile)


def _listed(profile: HeadProfile) -> Mitigation:
    """Return the gains of a profile as a mitigation that names each head."""
    assert profile.gains is not None  # a proposal's
    table = profile.gains.tolist()
    heads = [(layer, head, gain) for layer, row in enumerate(table) for head, gain in enumerate(row) if gain != 1.0]
    return Mitigation((StaticGains(gains=tuple(heads)),))
