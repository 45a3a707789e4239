"""RouteGain on the heads that each scorer puts above its layer's median: is one of them a guide?

vlm-heads study route-heads --model mini --write docs/route_gain.md

Captions of validation scenes at equal recall, beside all heads and random ones. Heads are scored on other scenes of the
same split. A scorer that wins here has been chosen, not measured.

RUN/profiles/SCORER/     scores of heads, or SCORER.txt: why there are none
RUN/chair/…              captions: plain, plain's trade-off curve, and one run a scorer
RUN/route-heads.json     what it comes to
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vlm_evals.answer import Asking, Processes, fingerprint
from vlm_evals.arms import BIASES, Arm, bias_name, curve_arms
from vlm_evals.data.coco import CocoFolder
from vlm_evals.experiment import ask_arms
from vlm_evals.protocol import DESCRIBE
from vlm_evals.records import write_json, write_text
from vlm_evals.registry import find_metric
from vlm_evals.reports.pairs import PLAIN, compare
from vlm_evals.scenes.export import export_world
from vlm_evals.scored import score_run
from vlm_evals.tasks import bind

from vlm_app.blocks import write_block
from vlm_app.console import progress, remark
from vlm_app.models import load_vlm
from vlm_app.scored_on.shown import of_world
from vlm_app.scored_on.source import SPLIT, Samples
from vlm_app.studies.chosen import CAPTIONS
from vlm_app.studies.findings.measure import rounded
from vlm_app.studies.league.cells import interval, percent, table
from vlm_heads import HeadProfile, Mitigation, RouteGain
from vlm_heads.errors import VlmHeadsError
from vlm_heads.scorers import Scorer, parse_scorer

FILE = "route-heads.json"
OTHERS: tuple[Literal["all", "random"], ...] = ("all", "random")  # ways of choosing heads that need no score


@dataclass(frozen=True)
class Sizes:
    """How much is asked.

    Attributes:
        captions: scenes that are captioned.
        samples: other scenes, which heads are scored on.
        batch: scenes in one generation.
    """

    captions: int = 300
    samples: int = 32
    batch: int = 100


def measure_scorers(
    out: Path, *, model: str, scorers: Sequence[str], route: RouteGain, sizes: Sizes, seed: int, device: str | None
) -> dict[str, Any] | None:
    """Measure, write route-heads.json, and return what it holds; None in all processes but the first.

    Started again it goes on where it stopped.

    Args:
        out: folder of the run.
        model: what `load_vlm` takes.
        scorers: their words, as `parse_scorer` takes them.
        route: its gain and layers; its heads are chosen here.
        sizes: how much is asked.
        seed: draws the scenes and the resamples.
        device: of the model; a GPU by default if there is one.

    A scorer that can tell nothing of this model is named with its reason.

    Raises:
        BadOption: if a scorer is not known.
    """
    known = {scorer.word(): scorer for scorer in map(parse_scorer, scorers)}
    vlm, processes = load_vlm(model, device, seed), Processes.current(device)
    shown = of_world(SPLIT, seed, sizes.captions + sizes.samples)[sizes.captions :]
    samples = Samples(vlm, DESCRIBE, shown=shown, seed=seed)
    unfit: dict[str, str] = {}
    for word, scorer in known.items():
        if reason := _score_once(scorer, samples, _profile(out, word), processes):
            unfit[word] = reason
    fixed = replace(route, heads="fixed")
    arms = [Arm(name, Mitigation((replace(route, heads=name),))) for name in OTHERS]
    for word in (one for one in known if one not in unfit):  # in one order for all processes
        profile = HeadProfile.from_pretrained(_profile(out, word))
        arms.append(Arm(f"by {word}", Mitigation((fixed,), profile=profile)))
    folder, data = out / CAPTIONS, out / "data"
    processes.once(
        lambda: not (data / "captions.json").is_file(),
        lambda: export_world(data, split=SPLIT, images=sizes.captions, seed=seed),
    )
    world = CocoFolder.find(data)
    protocol = bind(f"world-{SPLIT}", CAPTIONS, world, limit=sizes.captions, seed=seed)
    asking = Asking(vlm, batch_size=sizes.batch, allow_idle=True)
    ask_arms(
        asking, protocol, world, [Arm(PLAIN), *curve_arms(), *arms], folder, processes=processes, progress=progress
    )
    if not processes.first:
        return None
    curve = {bias: score_run(folder / bias_name(bias)).scores for bias in BIASES}
    rows = {arm.name: score_run(folder / arm.name).scores for arm in arms}
    found = compare(find_metric(CAPTIONS), score_run(folder / PLAIN).scores, rows, curve=curve, seed=seed).table()
    about = {
        "model": Path(model).name, "weights": fingerprint(vlm.model)[:8], "seed": seed, "split": SPLIT,
        "scenes": sizes.captions, "samples": sizes.samples, "setting": route.word(),
    }  # fmt: skip
    whole: dict[str, Any] = rounded(
        {"about": about, "plain": found["plain"], "rows": found["controls"], "unfit": unfit}
    )
    write_json(out / FILE, whole)
    return whole


def _profile(out: Path, word: str) -> Path:
    return out / "profiles" / word.replace(":", " ").replace(",", " ")


def _score_once(scorer: Scorer, samples: Samples, folder: Path, processes: Processes) -> str | None:
    """Score heads where that was not done; return why the scorer cannot tell of this model, or None."""

    def score() -> None:
        remark(f"scoring heads, {scorer.word()}")
        try:
            scorer.score(samples.vlm.model, samples.vlm.processor, samples.of(scorer)).save_pretrained(folder)
        except VlmHeadsError as failure:
            write_text(folder.with_suffix(".txt"), str(failure))

    why = folder.with_suffix(".txt")
    processes.once(lambda: not folder.is_dir() and not why.is_file(), score)
    return why.read_text(encoding="utf-8") if why.is_file() else None


def heads_block(found: Mapping[str, Any]) -> str:
    """Return what was found as Markdown."""
    about = found["about"]
    head = (
        f"`{about['model']}` (weights {about['weights']}), `{about['setting']}` on the heads that lie above their "
        f"layer's median by each score, scored on {about['samples']} scenes and measured on {about['scenes']} others, "
        f"all of the {about['split']} split."
    )
    return f"{head}\n\n{heads_table(found)}"


def heads_table(found: Mapping[str, Any]) -> str:
    """Return the rows, the lowest difference of CHAIR_S first; those off the curve last."""
    plain = found["plain"]
    rows = [["none: plain", "0", "0", *(percent(plain[name]) for name in _FIGURES)]]
    for name, row in sorted(found["rows"].items(), key=lambda item: _rank(item[1])):
        off = [interval(row["curve_difference"][figure]) for figure in ("chair_s", "chair_i_distinct")]
        rows.append([name, *off, *(percent(row[figure]) for figure in _FIGURES)])
    rows += [[f"by {word}", f"n/a: {why}", "", "", "", ""] for word, why in found["unfit"].items()]
    header = ["heads", "CHAIR_S at equal recall", "CHAIR_I distinct, equal recall", "CHAIR_S", "recall", "repeated"]
    return table(header, rows)


_FIGURES = ("chair_s", "recall", "repeated_mentions")


def _rank(row: Mapping[str, Any]) -> float:
    estimate: float | None = row["curve_difference"]["chair_s"]["estimate"]
    return float("inf") if estimate is None else estimate


def write_heads_block(page: Path, found: Mapping[str, Any]) -> None:
    """Fill in the model's block of a page.

    Raises:
        TaskError: if the page is there without the block's marks.
    """
    write_block(page, f"route-heads-{found['about']['model']}", heads_block(found))
