"""Whether T-VHD, or the token's plain probability, tells an object that is not there from one that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from vlm_evals.errors import EvaluationError
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.world import Scene
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.places import pieces_that_mention

from vlm_app.studies.findings.captions import Caption, picture_of, shown_in
from vlm_heads import VLM, token_grounding

RESAMPLES = 2000
SCORES = ("t_vhd", "probability")


@dataclass(frozen=True)
class FirstMention:
    """The first mention of an object in a caption.

    Attributes:
        caption: number of the caption.
        invented: whether the object is not in the picture.
        t_vhd: of the token that decides for the object.
        probability: that the model gave this token.
        position: of the token in the caption.
    """

    caption: int
    invented: bool
    t_vhd: float
    probability: float
    position: int


def first_mentions(
    vlm: VLM,
    captions: Sequence[Caption],
    pictures: Sequence[Scene],
    progress: Callable[[int], object] = lambda count: None,
) -> Iterator[FirstMention]:
    """Yield the first mention of every object in captions; repeats copy the text and would hide the effect."""
    finder = ObjectFinder()
    for number, (caption, scene) in enumerate(zip(captions, pictures, strict=True)):
        progress(1)
        if not caption.ids:
            continue
        traced = token_grounding(vlm.model, vlm.processor, picture_of(scene), DESCRIBE, caption.ids)
        shown, known = shown_in(scene), set[str]()
        for first, _, node in pieces_that_mention(finder, [piece.text for piece in traced]):
            if node not in known:
                known.add(node)
                yield FirstMention(number, node not in shown, traced[first].t_vhd, caption.chances[first], first)


def auc(invented: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Return the chance that a faithful mention scores higher than an invented one, ties half."""
    ranks = rankdata(score)
    right, wrong = int((~invented).sum()), int(invented.sum())
    return float((ranks[~invented].sum() - right * (right + 1) / 2) / (right * wrong))


def auc_with_interval(mentions: Sequence[FirstMention], name: str, seed: int) -> dict[str, float]:
    """Return the AUC of one attribute with its 95 % bootstrap interval over captions.

    Raises:
        EvaluationError: if all mentions are faithful, or all invented.
    """
    return aucs(mentions, seed, (name,))[name]


def aucs(mentions: Sequence[FirstMention], seed: int, names: Sequence[str] = SCORES) -> dict[str, dict[str, float]]:
    """Return the AUC of attributes, with 95 % bootstrap intervals over captions; of two, their `difference` too.

    The difference is the first minus the second. Both are taken from the same resamples, so it is paired.

    Raises:
        EvaluationError: if all mentions are faithful, or all invented.
    """
    invented = np.array([mention.invented for mention in mentions])
    if len(set(invented.tolist())) < 2:
        raise EvaluationError(f"{invented.sum()} of {len(invented)} mentions are invented: give more --images")
    scores = {name: np.array([float(getattr(mention, name)) for mention in mentions]) for name in names}
    drawn: dict[str, list[float]] = {name: [] for name in names}
    for chosen in _resamples(np.array([mention.caption for mention in mentions]), seed):
        if 0 < invented[chosen].sum() < len(chosen):
            for name, score in scores.items():
                drawn[name].append(auc(invented[chosen], score[chosen]))
    found = {name: auc(invented, score) for name, score in scores.items()}
    spread: Mapping[str, NDArray[np.float64]] = {name: np.array(values) for name, values in drawn.items()}
    table = {name: _interval(found[name], spread[name]) for name in names}
    if len(names) == 2:
        one, other = names
        table["difference"] = _interval(found[one] - found[other], spread[one] - spread[other])
    return table


def _resamples(captions: NDArray[np.int64], seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield indices of mentions, whole captions drawn with replacement."""
    members = [np.flatnonzero(captions == number) for number in np.unique(captions)]
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])


def _interval(value: float, drawn: NDArray[np.float64]) -> dict[str, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"auc": value, "low": float(low), "high": float(high)}
