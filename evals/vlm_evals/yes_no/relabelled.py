"""Scores of yes-or-no answers under other labels than those they were counted with.

A score carries under `UNDER` in its evidence, by source of labels, the label and how the answer is read with it, or
None where the source removed the question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vlm_evals.metric import Relabelled
from vlm_evals.records import Label, Score
from vlm_evals.text.yes_no import Reading

UNDER = "under"
CHANGES = ("yes_to_yes", "yes_to_no", "yes_removed", "no_to_no", "no_to_yes", "no_removed")


def counts_of_answer(reading: Reading, label: Label) -> dict[str, int]:
    """Return the counts of one answer; an unparsed answer is never right, and a dropped one counts as no question."""
    if reading == "dropped":
        return dict.fromkeys(counts_of_answer("unparsed", label), 0) | {"neither": 1}
    said, positive = reading == "yes", label == "yes"
    return {
        "questions": 1,
        "right": int(reading == label),
        "true_yes": int(said and positive),
        "false_yes": int(said and not positive),
        "true_no": int(reading == "no" and not positive),
        "false_no": int(reading == "no" and positive),
        "neither": int(reading == "unparsed"),
        "said_yes": int(said),
        "label_yes": int(positive),
        "label_no": int(not positive),
    }


def relabelled(scores: Sequence[Score]) -> Mapping[str, Relabelled]:
    """Return source of labels -> the scores under its labels, in order, without the questions that it removed."""
    names = dict.fromkeys(name for score in scores for name in score.evidence.get(UNDER, ()))
    return {name: Relabelled(_kept(scores, name), _transition(scores, name)) for name in names}


def _kept(scores: Sequence[Score], name: str) -> list[Score]:
    found = [_under(score, name) for score in scores]
    return [score for score in found if score is not None]


def _under(score: Score, name: str) -> Score | None:
    stated = score.evidence[UNDER].get(name)
    if stated is None:
        return None
    evidence = {key: value for key, value in score.evidence.items() if key != UNDER} | stated
    return replace(score, counts=counts_of_answer(stated["reading"], stated["label"]), evidence=evidence)


def _transition(scores: Sequence[Score], name: str) -> dict[str, dict[str, int]]:
    """Return split -> `yes_to_no`, `yes_removed` and so on (together every question), and `right_to_wrong` and back."""
    found: dict[str, Counter[str]] = {}
    for score in scores:
        counted = found.setdefault(
            score.split, Counter(dict.fromkeys((*CHANGES, "right_to_wrong", "wrong_to_right"), 0))
        )
        before, after = score.evidence["label"], _under(score, name)
        counted[f"{before}_removed" if after is None else f"{before}_to_{after.evidence['label']}"] += 1
        if after is not None and after.counts["right"] != score.counts["right"]:
            counted["right_to_wrong" if score.counts["right"] else "wrong_to_right"] += 1
    return {split: dict(counted) for split, counted in found.items()}
