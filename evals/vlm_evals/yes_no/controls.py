"""The output control of yes-or-no questions: plain answers, turned by a threshold until the yes ratio is a method's.

A method that only says yes more often, or less often, can be had by moving a threshold on the plain model's margin
between yes and no (Mirage, 2025, output layer modification). Here the threshold gives the method's own share of yes in
every split: of the plain answers those nearest to it are turned, and no more than that share needs.

Mirage's own rule is fixed, whatever the method: an answer becomes yes where p(yes) + p(no) > 0.2 and
|p(yes) - p(no)| < 0.5. With the margin m and e = p(yes) + p(no) the difference is e · tanh(m / 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vlm_evals.metric import Derived
from vlm_evals.records import Label, Score
from vlm_evals.yes_no.relabelled import UNDER, counts_of_answer

OUTPUT, FIXED = "output", "output-fixed"
EITHER, UNSURE = 0.2, 0.5  # Mirage's: yes or no is likely enough, and neither much likelier than the other
ADDED = {  # control -> sentence added to every question
    "prompt-yes": " Answer yes whenever possible.",
    "prompt-no": " Answer no whenever possible.",
}


def output_controls(plain: Sequence[Score], method: Sequence[Score]) -> Mapping[str, Derived]:
    """Return the control with the method's share of yes, and that of the fixed rule where it can be made."""
    return {**output_control(plain, method), **fixed_control(plain)}


def fixed_control(plain: Sequence[Score]) -> Mapping[str, Derived]:
    """Return the control of Mirage's fixed rule, or nothing where margins or probabilities were not recorded.

    Args:
        plain: scores whose evidence has the `margin` of yes against no, and with `either` the probability of the two.
    """
    if not plain or any(score.evidence.get(name) is None for score in plain for name in ("margin", "either")):
        return {}
    turned = {
        place: score for place, score in enumerate(plain) if _unsure(score) and score.evidence["reading"] != "yes"
    }
    found = [_answered(score, "yes") if place in turned else score for place, score in enumerate(plain)]
    said = f"the control {FIXED} turns {len(turned)} of {len(plain)} plain answers to yes: the model is unsure of them"
    return {FIXED: Derived(found, f"{said} (Mirage's fixed rule)")}


def _unsure(score: Score) -> bool:
    either = float(score.evidence["either"])
    return either > EITHER and abs(either * math.tanh(_margin(score) / 2)) < UNSURE


def output_control(plain: Sequence[Score], method: Sequence[Score]) -> Mapping[str, Derived]:
    """Return the control, or nothing where margins were not recorded.

    Args:
        plain: scores whose evidence has the `margin` of yes against no.
        method: scores of the same questions in the same order; of these the yes ratio alone counts.
    """
    if not plain or any(score.evidence.get("margin") is None for score in plain):
        return {}
    found, said = list(plain), []
    for split in dict.fromkeys(score.split for score in plain):
        places = [place for place, score in enumerate(plain) if score.split == split]
        wanted = sum(method[place].counts["said_yes"] for place in places)
        turned = _turned(plain, places, wanted)
        for place, reading in turned.items():
            found[place] = _answered(plain[place], reading)
        said.append(f"{split or 'all'} {_told(plain, turned)}")
    return {OUTPUT: Derived(found, f"the control {OUTPUT} turns plain answers by their margin: {'; '.join(said)}")}


def _turned(plain: Sequence[Score], places: Sequence[int], wanted: int) -> dict[int, Label]:
    """Return place -> new answer, so that as many answers of these places are yes as are wanted."""
    yes = [place for place in places if plain[place].counts["said_yes"]]
    no = [place for place in places if not plain[place].counts["said_yes"]]
    if wanted > len(yes):
        nearest = sorted(no, key=lambda place: -_margin(plain[place]))[: wanted - len(yes)]
        return dict.fromkeys(nearest, "yes")
    return dict.fromkeys(sorted(yes, key=lambda place: _margin(plain[place]))[: len(yes) - wanted], "no")


def _margin(score: Score) -> float:
    return float(score.evidence["margin"])


def _told(plain: Sequence[Score], turned: Mapping[int, Label]) -> str:
    """Return how many answers were turned, and up to which margin."""
    if not turned:
        return "none"
    (reading,) = set(turned.values())
    margins = [_margin(plain[place]) for place in turned]
    last = min(margins) if reading == "yes" else max(margins)
    return f"{len(turned)} to {reading}, up to a margin of {last:+.2f}"


def _answered(score: Score, reading: Label) -> Score:
    """Return the score of another answer to the same question."""
    evidence = dict(score.evidence) | {"reading": reading, "answer": reading}
    if UNDER in evidence:
        stated = evidence[UNDER].items()
        evidence[UNDER] = {name: one and {**one, "reading": reading} for name, one in stated}
    return replace(score, counts=counts_of_answer(reading, score.evidence["label"]), evidence=evidence)
