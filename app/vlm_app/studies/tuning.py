"""Tuning: the mitigation for somebody's model and pictures, chosen on one half of them and measured on the other.

RUNS/data                      the embedded world's pictures, where no --data was given
RUNS/search/chair/plain, …     the settings tried and the plain model's curve, each a run directory
RUNS/report/chair/plain, …     the chosen one on the half that nothing was chosen on, beside the curve there

Stopped and started again it goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_evals.answer import Asking, Processes, fingerprint
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import TaskError
from vlm_evals.registry import find_metric
from vlm_evals.runs import environment

from vlm_app.studies.able import why_unable
from vlm_app.studies.benefit import below, judged, measured_table
from vlm_app.studies.chosen import CAPTIONS, QUESTIONS
from vlm_app.studies.halves import halves, measure, protocols
from vlm_heads import Mitigation

# One or two settings of every kind of method that needs no list made for another model, from mild to strong.
TRIED = (
    "route:image=1.25,layers=all,heads=all",
    "route:image=1.5,layers=all,heads=all",
    "route:image=1.5,layers=last-half,heads=all",
    "vhr:gain=1.2",
    "vhr:gain=2.0",
    "var",
    "var:criterion=median,sinks=any,max_sink_share=1",
    "pai",
    "m3id",
    "vcd",
    "branch",
    "askback:by=confidence",
    "askback:by=both",
    "askback:by=both,say_more=0.7",
    "branch askback:by=both",
)


@dataclass(frozen=True)
class Tuned:
    """What was found.

    Attributes:
        mitigation: the best of those tried.
        rows: what every setting did on the searched half: its differences from plain, and whether it may be chosen.
        unfit: settings that cannot act on this model, and why.
        benefit: whether a benefit was shown on the other half.
        reason: in a sentence.
        card: the evidence, as JSON values.
    """

    mitigation: Mitigation
    rows: Sequence[Mapping[str, Any]]
    unfit: Mapping[str, str]
    benefit: bool
    reason: str
    card: Mapping[str, Any]


def tune(
    asking: Asking, data: CocoFolder, template: str, runs: Path, tried: Sequence[str], *, captions: int,
    questioned: int, max_tokens: int | None, seed: int, processes: Processes,
) -> Tuned:  # fmt: skip
    """Return the mitigation that invents least at equal recall, chosen on one half and measured on the other.

    A setting may be chosen if neither recall nor POPE's accuracy is significantly below plain. Of those the one with
    the lowest CHAIR_S against the plain model's own curve, at its own recall, is chosen.

    Args:
        asking: the model; its mitigation is not used.
        data: pictures and annotations.
        template: name of a built-in protocol that fits the data.
        runs: where everything asked is kept.
        tried: mitigations in words.
        captions: pictures captioned, per half.
        questioned: pictures that questions are asked about, per half.
        max_tokens: tokens a caption may have; None for the protocol's.
        seed: draws the halves and the questions.
        processes: those that share the work.

    Raises:
        TaskError: if there are not enough pictures, or no setting can act on the model.
        BadOption: if a word cannot be read.
    """
    wanted = {words: Mitigation.parse(words) for words in tried}
    reasons = {words: why_unable(asking.vlm, one) for words, one in wanted.items()}
    unfit = {words: str(reason) for words, reason in reasons.items() if reason is not None}
    able = {words: one for words, one in wanted.items() if words not in unfit}
    if not able:
        raise TaskError(
            f"no setting can act on this model: {'; '.join(f'{words}: {why}' for words, why in unfit.items())}"
        )
    search, report = halves(data, captions=captions, questioned=questioned, seed=seed)
    bound = [
        protocols(template, part, captions=captions, questioned=questioned, max_tokens=max_tokens, seed=seed)
        for part in (search, report)
    ]
    searched = measure(asking, able, search, bound[0], runs / "search", processes, curve=True)
    tables = {metric: one.table() for metric, one in searched.items()}
    rows = [tried_row(words, tables) for words in able]
    best = best_of(rows)
    chosen = {best["setting"]: able[best["setting"]]}
    measured = measure(asking, chosen, report, bound[1], runs / "report", processes, curve=True)
    final = {metric: one.pair() for metric, one in measured.items()}
    benefit, reason = judged(final[CAPTIONS], final[QUESTIONS], bool(best["kept"]))
    card = {
        "kind": "tuned mitigation",
        "model": asking.vlm.name,
        "weights": fingerprint(asking.vlm.model),
        "data": data.hashes(),
        "protocols": {f"{name}, {part}": one.hash
                      for part, both in zip(("search", "report"), bound, strict=True) for name, one in both.items()},
        "setting": best["setting"],
        "seed": seed,
        "search": rows,
        "unfit": unfit,
        "measured": measured_table(final),
        "verdict": {metric: one["verdict"] for metric, one in final.items()},
        "benefit": benefit,
        "reason": reason,
        "packages": environment()["packages"],
    }  # fmt: skip
    return Tuned(able[best["setting"]], rows, unfit, benefit, reason, card)


def tried_row(words: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a setting did on the searched half.

    Returns:
        setting; recall, chair_s, pope_accuracy: differences from plain; at_equal_recall: the difference of CHAIR_S from
        the plain model's curve, None where it left the curve; kept: whether recall and accuracy held.
    """
    own = {metric: one["controls"][words] for metric, one in found.items()}
    chair, pope = own[CAPTIONS], own[QUESTIONS]
    return {
        "setting": words,
        "recall": chair["difference"]["recall"]["estimate"],
        "chair_s": chair["difference"]["chair_s"]["estimate"],
        "at_equal_recall": chair["curve_difference"]["chair_s"]["estimate"],
        "pope_accuracy": pope["difference"]["accuracy"]["estimate"],
        "kept": not any(below(row, find_metric(metric).must_hold) for metric, row in own.items()),
    }


def best_of(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row with the lowest CHAIR_S at equal recall among those that may be chosen.

    Where none may be, the best of all is returned: it is still measured, and what is written says so. A row that left
    the curve comes after every row on it.
    """

    def order(row: Mapping[str, Any]) -> tuple[bool, bool, float]:
        off = row["at_equal_recall"]
        return not row["kept"], off is None, row["chair_s"] if off is None else off

    return min(rows, key=order)
