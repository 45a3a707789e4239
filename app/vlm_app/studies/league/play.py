"""The league: every setting on the same scenes, each against the plain model's trade-off curve at its own recall.

    vlm-heads study league --out runs/league --write docs/results.md
    vlm-heads study league --out runs/league-1 --model checkpoints/mini-1 --methods askback,branch,m3id

A sweep on validation scenes chooses one setting per method: the one with the lowest CHAIR_S at equal recall. Then the
published setting, the chosen ones, their controls and the other methods are measured on scenes that nothing was chosen
on. Stopped and started again, it goes on where it stopped.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlm_evals.answer import Asking, Processes, fingerprint
from vlm_evals.arms import BIASES, Arm, bias_name, curve_arms
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import TaskError
from vlm_evals.experiment import ask_arms
from vlm_evals.protocol import DESCRIBE
from vlm_evals.records import Score, read_json, write_json, write_text
from vlm_evals.registry import find_metric
from vlm_evals.reports.pairs import PLAIN, Comparison, compare
from vlm_evals.runs import answers_in
from vlm_evals.scenes.export import export_world
from vlm_evals.scored import score_run
from vlm_evals.tasks import bind

from vlm_app.blocks import write_block
from vlm_app.console import progress, remark
from vlm_app.models import load_vlm, parse_mitigations
from vlm_app.studies.chosen import CAPTIONS, QUESTIONS
from vlm_app.studies.league.entries import (
    Entry,
    choose,
    finalists,
    given_entries,
    other_methods,
    sweep_of_settings,
)
from vlm_app.studies.league.evidence import evidence
from vlm_app.studies.league.heads import heads_that_invent, why_not
from vlm_app.studies.league.pages import results_page
from vlm_heads import HeadProfile, Mitigation, known_methods, score_heads
from vlm_heads.errors import BadOption
from vlm_heads.names import unknown_method

PROFILE_SCENES = 64
FEWEST = 12  # scenes; fewer leave nothing to resample
BATCH = 100
RESAMPLES = 9_999  # so many that the p of one row among two hundred can still stand after Holm's correction


@dataclass(frozen=True)
class Round:
    """What is measured on one split.

    Attributes:
        split: of the embedded world.
        captions: scenes that are captioned.
        asked: scenes that POPE's questions are asked about.
    """

    split: str
    captions: int
    asked: int = 0


ROUNDS = (
    Round("validation", 300),
    Round("held-out", 600, asked=150),
    Round("shifted", 500),
    Round("scrambled", 400),
)


@dataclass(frozen=True)
class League:
    """Who plays where.

    Attributes:
        asking: the model and how it is asked.
        out: folder of the runs.
        processes: those that share the work.
        seed: draws the scenes and the resamples.
        profile: head scores for the settings with fixed heads.
    """

    asking: Asking
    out: Path
    processes: Processes
    seed: int
    profile: HeadProfile | None = None

    def measure(self, entries: Sequence[Entry], where: Round) -> dict[str, Any]:
        """Return every entry beside the plain model on one split: CHAIR with its curve, and POPE."""
        folder = self._ask(CAPTIONS, entries, [Arm(PLAIN), *curve_arms()], where, where.captions)
        names = [entry.name for entry in entries]
        found: dict[str, Any] = asdict(where) | {
            CAPTIONS: self._captions(folder, entries),
            "seconds": {name: _seconds(folder / name) for name in (PLAIN, *names)},
            "idle": [entry.name for entry in entries if _idle(folder / entry.name)],
        }
        if where.asked:
            folder = self._ask(QUESTIONS, entries, [Arm(PLAIN)], where, where.asked)
            found[QUESTIONS] = self._compared(QUESTIONS, folder, names, {}).table()
        return found

    def _captions(self, folder: Path, entries: Sequence[Entry]) -> dict[str, Any]:
        """Return CHAIR's table, and of every row what the goal asks for."""
        curve = {bias: score_run(folder / bias_name(bias)).scores for bias in BIASES}
        compared = self._compared(CAPTIONS, folder, [entry.name for entry in entries], curve)
        table = compared.table()
        for name, more in evidence(compared, entries).items():
            table["controls"][name] |= more
        return table

    def _compared(
        self, metric: str, folder: Path, names: Sequence[str], curve: Mapping[float, Sequence[Score]]
    ) -> Comparison:
        plain = score_run(folder / PLAIN).scores
        rows = {name: score_run(folder / name).scores for name in names}
        return compare(find_metric(metric), plain, rows, curve=curve, seed=self.seed, resamples=RESAMPLES)

    def _ask(self, metric: str, entries: Sequence[Entry], more: Sequence[Arm], where: Round, limit: int) -> Path:
        data, folder = self.world(where), self.out / where.split / metric
        protocol = bind(f"world-{where.split}", metric, data, limit=limit, seed=self.seed)
        arms = [Arm(entry.name, self._mitigation(entry)) for entry in entries]
        # those that read the profile last, as they always were
        for arm in sorted([*more, *arms], key=lambda arm: arm.mitigation.profile is not None):
            if self.processes.first:
                remark(f"{where.split}, {metric}: {arm.name}")
            ask_arms(self.asking, protocol, data, [arm], folder, processes=self.processes, progress=progress)
        return folder

    def _mitigation(self, entry: Entry) -> Mitigation:
        found = parse_mitigations(entry.words)
        return replace(found, profile=self.profile) if entry.reads_profile else found

    def world(self, where: Round) -> CocoFolder:
        """Return the scenes of a split, drawn where they are missing."""
        folder, images = self.out / "data" / where.split, max(where.captions, 2 * where.asked)
        self.processes.once(
            lambda: not (folder / "captions.json").is_file(),
            lambda: export_world(folder, split=where.split, images=images, seed=self.seed),
        )
        return CocoFolder.find(folder)

    def with_profile(self, where: Round) -> League:
        """Return the same with head scores of the first scenes of a split; kept for the next start."""
        folder, vlm = self.out / "profile", self.asking.vlm
        pictures = [str(path) for path in list(self.world(where).images.values())[:PROFILE_SCENES]]
        self.processes.once(
            lambda: not folder.is_dir(),
            lambda: score_heads(vlm.model, vlm.processor, pictures).save_pretrained(folder),
        )
        return replace(self, profile=HeadProfile.from_pretrained(folder))

    def can_play(self, entry: Entry) -> bool:
        """Whether a setting of the sweep can act on this model: VAR needs sinks."""
        return entry.reads_profile or why_not(self.asking.vlm, entry) is None

    def others(self, where: Round, methods: Collection[str] = ()) -> tuple[list[Entry], dict[str, str]]:
        """Return the other methods that can play, and by label why the rest cannot; after the plain model's round."""
        listed = self._listed(where) if not methods or "adhh" in methods else None
        entries = [entry for entry in other_methods(listed) if entry.made_of(methods)]
        reasons = {entry: why_not(self.asking.vlm, entry) or _too_slow(entry, methods) for entry in entries}
        able = [entry for entry, reason in reasons.items() if reason is None]
        return able, {entry.label: reason for entry, reason in reasons.items() if reason is not None}

    def _listed(self, where: Round) -> str | None:
        """Return AD-HH's list for this model, from the plain captions of a round; kept for the next start."""
        path, data = self.out / "heads.json", self.world(where)
        plain = self._ask(CAPTIONS, [], [Arm(PLAIN)], where, where.captions) / PLAIN
        self.processes.once(
            lambda: not path.is_file(),
            lambda: write_json(path, {"adhh": heads_that_invent(self.asking.vlm, plain, data, DESCRIBE)}),
        )
        listed: str | None = read_json(path)["adhh"]
        return listed


def _too_slow(entry: Entry, named: Collection[str]) -> str | None:
    """Return why a method that takes one prompt at a time plays only where it is named; None where it plays."""
    if entry.mitigation.batched or named:
        return None
    return "not played: it takes one prompt at a time, hundreds of times as long as the others; name it in --methods"


def _seconds(folder: Path) -> float:
    """Return the mean seconds an answer took."""
    spent = [answer.seconds for answer in answers_in(folder).values() if answer.seconds is not None]
    return math.fsum(spent) / len(spent)


def _idle(folder: Path) -> bool:
    """Whether interventions were attached and never acted on any scene."""
    receipts = [answer.receipt for answer in answers_in(folder).values() if answer.receipt]
    attached = [one for receipt in receipts for one in receipt["interventions"]]
    return bool(attached) and not any(one["layers"] for one in attached)


def about(model: str, weights: str, rounds: Sequence[Round], processes: Processes, seed: int) -> dict[str, Any]:
    """Return when, with what code and on what the league was played, without a path of this machine."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    known = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    commit = known.stdout.strip() or f"version {version('vlm-heads')}"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": f"{commit} with changes" if changed.stdout.strip() else commit,
        "model": Path(model).name,
        "weights": weights[:8],
        "processes": processes.count,
        "seed": seed,
        "scenes": {where.split: where.captions for where in rounds},
    }


def play(
    out: Path,
    *,
    model: str,
    only: str | None,
    scale: float,
    write: Path | None,
    seed: int,
    device: str | None,
    given: Sequence[str] = (),
    controls: bool = False,
    methods: Collection[str] = (),
    batch: int = BATCH,
    splits: Collection[str] = (),
    captions_only: bool = False,
    validation: int | None = None,
) -> dict[str, Any] | None:
    """Play the league, write league.md and league.json, and return what it holds; None in all processes but the first.

    Args:
        out: folder of the runs and the tables.
        model: what `load_vlm` takes.
        only: "route" for RouteGain's rows alone.
        scale: share of the full number of scenes.
        write: page whose block `league`, or `given`, is filled in.
        seed: draws the scenes and the resamples.
        device: of the model; a GPU by default if there is one.
        given: mitigations in words that play alone, beside the plain model; then nothing is swept or chosen.
        controls: whether the controls of what is given play too.
        methods: names of the methods that play; by default all.
        batch: scenes in one generation; a GPU takes hundreds of a small model's at the price of one.
        splits: beside validation, where it plays; by default on all.
        captions_only: leave POPE's questions out.
        validation: scenes that choose among the settings of a sweep; by default 300 times the scale.

    Raises:
        BadOption: for a word that cannot be read, or a method that is not known.
        TaskError: for another word in `only`, for methods beside what is given, where none of them can play, or for a
            page without the block.
    """
    if only not in (None, "route"):
        raise TaskError(f"--only {only}: the one word it knows is route")
    if given and methods:
        raise TaskError("--with plays what it names alone: leave out --methods, or give no --with")
    if strange := [name for name in methods if name not in known_methods()]:
        raise unknown_method(strange[0], known_methods())
    entries = [entry for words in given for entry in given_entries(words, controls=controls)]
    processes = Processes.current(device)
    vlm = load_vlm(model, device, seed)
    league = League(Asking(vlm, batch_size=batch, allow_idle=True), out, processes, seed)
    rounds = [_scaled(where, scale) for where in _rounds(splits) if not entries or where != ROUNDS[0]]
    rounds = [replace(where, asked=0) for where in rounds] if captions_only else rounds
    if validation is not None and not entries:
        rounds[0] = replace(rounds[0], captions=validation)
    found = (
        _these(league, rounds, entries)
        if entries
        else _played(league, rounds, methods=methods, route_only=only == "route")
    )
    if not processes.first:
        return None
    found["about"] = about(model, fingerprint(vlm.model), rounds, processes, seed)
    write_json(out / "league.json", found)
    write_text(out / "league.md", results_page(found))
    if write is not None:
        write_block(write, "given" if entries else "league", results_page(found))
    return found


def _these(league: League, rounds: Sequence[Round], entries: Sequence[Entry]) -> dict[str, Any]:
    """Return what the given entries do on the scenes that nothing is chosen on.

    Raises:
        BadOption: if one reads a profile: the league takes one on the scenes of its sweep alone.
    """
    if fixed := [entry.method for entry in entries if entry.reads_profile]:
        raise BadOption(f"{fixed[0]} reads its heads from a profile, and none is taken here: leave out heads=fixed")
    results = [league.measure(entries, where) for where in rounds]
    return {"rows": {entry.name: asdict(entry) for entry in entries}, "unfit": {}, "sweep": None, "final": results}


def _rounds(splits: Collection[str]) -> list[Round]:
    """Return where is played: on validation, and on some of the other splits or all of them.

    Raises:
        TaskError: for a split that is not among them.
    """
    others = [where.split for where in ROUNDS[1:]]
    if strange := [split for split in splits if split not in others]:
        raise TaskError(f"--splits {strange[0]}: beside validation it plays on {', '.join(others)}")
    return [where for where in ROUNDS if where == ROUNDS[0] or not splits or where.split in splits]


def _scaled(where: Round, scale: float) -> Round:
    asked = max(2, round(scale * where.asked)) if where.asked else 0
    return replace(where, captions=max(FEWEST, round(scale * where.captions)), asked=asked)


def _played(
    league: League, rounds: Sequence[Round], *, methods: Collection[str] = (), route_only: bool
) -> dict[str, Any]:
    first, *rest = rounds
    tried = [entry for entry in sweep_of_settings(route_only=route_only) if entry.made_of(methods)]
    league = league.with_profile(first) if any(entry.reads_profile for entry in tried) else league
    sweep = [entry for entry in tried if league.can_play(entry)]
    validated = league.measure(sweep, first) if sweep else None
    others, unfit = ([], {}) if route_only else league.others(first, methods)
    chosen = choose(sweep, validated) if validated else []
    final = [entry for entry in finalists(chosen, others, route_only=route_only) if entry.made_of(methods)]
    if not final:
        reasons = "; ".join(f"{name}: {why}" for name, why in unfit.items()) or "--only leaves none of them"
        raise TaskError(f"of {', '.join(methods)} nothing can play here ({reasons}): name other --methods")
    results = [league.measure(final, where) for where in rest]
    rows = {entry.name: asdict(entry) for entry in (*sweep, *final)}
    return {"rows": rows, "unfit": unfit, "sweep": validated, "final": results}
