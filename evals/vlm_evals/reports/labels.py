"""The same answers under other labels, as a report has them: RePOPE's figures beside POPE's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_evals.metric import Metric
from vlm_evals.records import Score
from vlm_evals.reports.pairs import MITIGATED, PLAIN, Comparison, compare, intervals


def under_labels(metric: Metric, scores: Sequence[Score], *, seed: int | None = None) -> dict[str, Any]:
    """Return the entry `labels` of a report of one run: source -> figures, `n` and `label_transition`.

    Args:
        metric: whose scores they are.
        scores: of every answer.
        seed: of the bootstrap; None for no intervals.

    Returns:
        Nothing where the scores carry no other labels.
    """
    found: dict[str, Any] = {}
    for name, other in metric.relabelled(scores).items():
        found[name] = {"n": len(other.scores), **metric.corpus(other.scores), "label_transition": other.transition}
        if seed is not None:
            found[name]["intervals"] = intervals(metric, other.scores, seed=seed)
    return {"labels": found} if found else {}


def pair_under_labels(comparison: Comparison) -> dict[str, Any]:
    """Return the entry `labels` of a paired report: source -> what `Comparison.pair` gives, and `label_transition`.

    The transition is a mapping of each side; nothing comes back where the scores carry no other labels.
    """
    metric = comparison.metric
    runs = {name: metric.relabelled(scores) for name, scores in comparison.runs.items()}
    found: dict[str, Any] = {}
    for source in runs[PLAIN]:
        scores = {name: other[source].scores for name, other in runs.items()}
        base = scores.pop(PLAIN)
        derived = metric.derived(base, scores[comparison.others[0]])  # anew: the questions are fewer
        scores |= {name: one.scores for name, one in derived.items() if name in scores}
        seed, resamples = (comparison.settings[key] for key in ("seed", "resamples"))
        pair = compare(metric, base, scores, seed=seed, resamples=resamples).pair()
        sides = {PLAIN: PLAIN, MITIGATED: comparison.others[0]}
        found[source] = pair | {
            "label_transition": {side: runs[name][source].transition for side, name in sides.items()}
        }
    return {"labels": found} if found else {}
