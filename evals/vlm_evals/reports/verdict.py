"""The first line of a comparison: what was shown, in one of four phrases; in one of three for a score to raise.

A difference is shown where its whole interval lies on one side of zero. With h the share of hallucinating captions
(CHAIR_S) or of false yes answers (POPE), and differences taken as mitigated minus plain:

1. worse                                h is higher (unless POPE's accuracy is, too); or that accuracy is lower;
                                        or recall is lower and h is not
2. fewer hallucinations at equal recall h is lower and recall is not
3. fewer hallucinations, recall lost    h is lower, but so is recall
4. no difference shown                  anything else

Where the plain model's trade-off curve was measured, it decides first: below the curve at the method's own recall is 2,
above it is 1. A method that lies on the curve only says more or less. It is 3 where h and recall are both lower, and 1
where h is higher and recall is not, or recall is lower and h is not. Otherwise it is 4.

A metric whose headline is a score to raise has three phrases: better, worse, no difference shown.
"""

from typing import Literal

from vlm_evals.compare import Estimate

Verdict = Literal[
    "fewer hallucinations at equal recall",
    "fewer hallucinations, recall lost",
    "no difference shown",
    "worse",
    "better",
]


def verdict(
    hallucination: Estimate, recall: Estimate, *, curve: Estimate | None = None, accuracy: Estimate | None = None
) -> Verdict:
    """Return what a comparison showed.

    Args:
        hallucination: difference of CHAIR_S, or of POPE's share of false yes.
        recall: difference of recall.
        curve: difference of CHAIR_S from the plain model's curve at the method's recall, where there is one.
        accuracy: difference of POPE's accuracy.
    """
    measured = curve is not None and curve.value is not None
    if curve is not None and curve.below_zero:
        return "fewer hallucinations at equal recall"
    if curve is not None and curve.above_zero:
        return "worse"
    if accuracy is not None and accuracy.below_zero:
        return "worse"
    if hallucination.above_zero:
        paid = (measured and recall.above_zero) or (accuracy is not None and accuracy.above_zero)
        return "no difference shown" if paid else "worse"
    if hallucination.below_zero and recall.below_zero:
        return "fewer hallucinations, recall lost"
    if hallucination.below_zero:
        return "no difference shown" if measured else "fewer hallucinations at equal recall"
    return "worse" if recall.below_zero else "no difference shown"


def score_verdict(score: Estimate) -> Verdict:
    """Return what a comparison showed of a score to raise."""
    return "better" if score.above_zero else "worse" if score.below_zero else "no difference shown"
