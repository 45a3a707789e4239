"""What answers to yes-or-no questions became: of a plain run and another, by the label of their question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_evals.records import Score

TURNS = ("right_to_right", "right_to_wrong", "wrong_to_right", "wrong_to_wrong")
_WORTH = ("wrong", "right")


def transition(plain: Sequence[Score], other: Sequence[Score]) -> Mapping[str, Any]:
    """Return split -> label -> turn -> how many questions; every question is counted once.

    An answer that is neither yes nor no is wrong. Beside the labels stand `yes_to_no` and `no_to_yes`: the answers
    that changed from one to the other, whatever the label.

    Args:
        plain: scores of one run.
        other: scores of another on the same questions, in the same order.
    """
    found: dict[str, dict[str, Counter[str]]] = {}
    changed: dict[str, Counter[str]] = {}
    for before, after in zip(plain, other, strict=True):
        label, worth = before.evidence["label"], [_WORTH[score.counts["right"]] for score in (before, after)]
        by_label = found.setdefault(before.split, {name: Counter(dict.fromkeys(TURNS, 0)) for name in ("yes", "no")})
        by_label[label]["_to_".join(worth)] += 1
        readings = changed.setdefault(before.split, Counter({"yes_to_no": 0, "no_to_yes": 0}))
        readings[f"{before.evidence['reading']}_to_{after.evidence['reading']}"] += 1
    return {
        split: {label: dict(counted) for label, counted in by_label.items()}
        | {name: changed[split][name] for name in ("yes_to_no", "no_to_yes")}
        for split, by_label in found.items()
    }
