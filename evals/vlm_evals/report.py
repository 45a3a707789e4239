"""Reports: one run, or two on the same items, as report.json, report.md and PNG plots.

A report is plain data first; Markdown, plots and the command line's tables are drawn from that data alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_evals.compare import RESAMPLES
from vlm_evals.metrics import chair, pope
from vlm_evals.metrics.chair import CaptionScore
from vlm_evals.metrics.pope import QuestionScore
from vlm_evals.records import write_json, write_text
from vlm_evals.reports.pairs import chair_intervals, compare_chair, compare_pope, pope_intervals
from vlm_evals.reports.tables import markdown

Settings = Mapping[str, Any]
_NONE: Mapping[str, str] = {}


def chair_report(
    scores: Sequence[CaptionScore], *, settings: Settings, failures: Mapping[str, str] = _NONE, seed: int = 0
) -> dict[str, Any]:
    """Return the report of one run of captions.

    Args:
        scores: what `chair.score_captions` gave.
        settings: what a reader needs to repeat it: `protocol` (with `hash`), `model`, `interventions`, `pipeline`,
            `vocabulary`, `truth`, `notes` (a list of sentences); further entries are printed as they are.
        failures: sample id -> why it was not answered; counted, listed and not scored.
        seed: of the bootstrap.

    Returns:
        `kind`, `settings`, `n`, `failures`, every metric with `counts`, `undefined` and `intervals`, and
        `most_invented`.
    """
    found = _single("chair", len(scores), settings, failures) | chair.corpus_metrics(scores)
    return found | {"intervals": chair_intervals(scores, seed=seed), "most_invented": chair.most_invented(scores)}


def pope_report(
    scores: Sequence[QuestionScore], *, settings: Settings, failures: Mapping[str, str] = _NONE, seed: int = 0
) -> dict[str, Any]:
    """Return the report of one run of answers: as `chair_report`, with the mean over splits and every split."""
    found = _single("pope", len(scores), settings, failures) | pope.corpus_metrics(scores)
    return found | {"intervals": pope_intervals(scores, seed=seed)}


def _single(kind: str, items: int, settings: Settings, failures: Mapping[str, str]) -> dict[str, Any]:
    return {"kind": kind, "settings": dict(settings), "n": items, "failures": dict(failures)}


def paired_report(
    *,
    settings: Settings,
    plain_captions: Sequence[CaptionScore] = (),
    mitigated_captions: Sequence[CaptionScore] = (),
    plain_answers: Sequence[QuestionScore] = (),
    mitigated_answers: Sequence[QuestionScore] = (),
    curve: Mapping[float, Sequence[CaptionScore]] | None = None,
    controls: Mapping[str, Sequence[CaptionScore]] | None = None,
    answer_controls: Mapping[str, Sequence[QuestionScore]] | None = None,
    failures: Mapping[str, str] = _NONE,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Return the report of a plain and a mitigated run on the same captions, the same questions, or both.

    An item that failed in either run is in neither: leave it out of all scores and name it in `failures`.

    Args:
        settings: as in `chair_report`.
        plain_captions, mitigated_captions: scores of the same images; empty without captions.
        plain_answers, mitigated_answers: scores of the same questions; empty without questions.
        curve, controls: as in `pairs.compare_chair`.
        answer_controls: the controls' answers, as in `pairs.compare_pope`.
        failures: sample id -> why it was not answered.
        seed, resamples: of the bootstrap.

    Returns:
        `kind` "paired", `verdict`, `settings`, `n`, `plain`, `mitigated` and `difference` (CHAIR's metrics; POPE's
        under `pope`, or in their place where there are no captions), `mcnemar`, `most_invented`, and where measured
        `curve` and `controls`.

    Raises:
        AnswerMismatch: if the runs are not about the same items, or there is nothing to compare.
    """
    parts: dict[str, dict[str, Any]] = {}
    if plain_captions or mitigated_captions or not (plain_answers or mitigated_answers):
        parts["chair"] = compare_chair(
            plain_captions, mitigated_captions, curve=curve, controls=controls, seed=seed, resamples=resamples
        )
        parts["chair"]["most_invented"] = {
            "plain": chair.most_invented(plain_captions),
            "mitigated": chair.most_invented(mitigated_captions),
        }
    if plain_answers or mitigated_answers:
        parts["pope"] = compare_pope(
            plain_answers, mitigated_answers, controls=answer_controls, seed=seed, resamples=resamples
        )
    found: dict[str, Any] = {"kind": "paired", "settings": dict(settings), "failures": dict(failures)}
    if len(parts) == 1:
        ((name, part),) = parts.items()
        return found | {"metric": name} | part
    return found | {"metric": "chair+pope"} | _combined(parts["chair"], parts["pope"])


def _combined(captions: dict[str, Any], answers: dict[str, Any]) -> dict[str, Any]:
    """Return one report of both: CHAIR's entries at the top, POPE's below `pope` in each of them."""
    found = dict(captions)
    for side in ("plain", "mitigated", "difference"):
        found[side] = captions[side] | {"pope": answers[side]}
    found["mcnemar"] = captions["mcnemar"] | answers["mcnemar"]
    found["pope"] = {
        name: answers[name] for name in ("verdict", "n", "questions", "splits", "controls") if name in answers
    }
    return found


def write_report(folder: Path | str, report: Mapping[str, Any], *, plots: bool = True) -> list[Path]:
    """Write report.json, report.md and the plots; return what was written, in that order.

    Each file is replaced in one step, so a reader never sees half a report.
    """
    folder = Path(folder)
    write_json(folder / "report.json", report)
    drawn: list[Path] = []
    if plots:
        from vlm_evals.reports.plots import draw_plots  # matplotlib is slow to import, and a judge needs none

        drawn = draw_plots(folder, report)
    write_text(folder / "report.md", markdown(report, [path.name for path in drawn]))
    return [folder / "report.json", folder / "report.md", *drawn]
