"""A plain and a mitigated run on the same items, compared: plain data for reports, the command line and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_evals.compare import LEVEL, RESAMPLES, Estimate, Resampled, at_equal_recall, mcnemar, paired
from vlm_evals.metrics import chair, pope
from vlm_evals.metrics.chair import CaptionScore
from vlm_evals.metrics.pope import QuestionScore
from vlm_evals.ratios import Counts, HarmonicMean, Mean, Metric, Ratio
from vlm_evals.records import image_key
from vlm_evals.reports.verdict import verdict

CURVE_METRICS = ("chair_s", "chair_i", "chair_i_distinct")
PLAIN, MITIGATED = 0, 1


def compare_chair(
    plain: Sequence[CaptionScore],
    mitigated: Sequence[CaptionScore],
    *,
    curve: Mapping[float, Sequence[CaptionScore]] | None = None,
    controls: Mapping[str, Sequence[CaptionScore]] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Return a paired comparison of captions.

    Args:
        plain: the scores of the model as it is.
        mitigated: the scores of the same images with the interventions.
        curve: end-of-text bias -> scores of the plain model with that bias; the plain run itself counts as bias 0.
        controls: name -> scores of a control, such as the same gain on the least vision-aware heads.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        `verdict`, `n`, `seed`, `resamples`, `level`; `plain` and `mitigated` (every metric, with `counts`, `undefined`
        and `intervals`); `difference` (metric -> estimate, low, high; mitigated minus plain); `mcnemar`; with a curve
        `curve` (points, and the difference at equal recall); with controls `controls`.

    Raises:
        AnswerMismatch: naming an image that is not in both runs.
    """
    others = {"mitigated": mitigated, **(controls or {})}
    points = {bias: scores for bias, scores in (curve or {}).items() if bias != 0}
    aligned = {name: paired(plain, scores, _image)[1] for name, scores in others.items()}
    biased = {bias: paired(plain, scores, _image)[1] for bias, scores in points.items()}
    runs: list[Sequence[CaptionScore]] = [plain, *aligned.values(), *biased.values()]
    resampled = Resampled([[score.counts() for score in run] for run in runs], seed=seed, resamples=resamples)
    on_curve = [PLAIN, *range(1 + len(aligned), len(runs))] if points else []
    metrics = chair.RATIOS
    difference = _differences(resampled, metrics, MITIGATED, PLAIN)
    equal = _equal_recall(resampled, MITIGATED, on_curve)
    found: dict[str, Any] = {
        "verdict": verdict(difference["chair_s"], difference["recall"], curve=equal.get("chair_s")),
        **_settings(len(plain), seed, resamples),
        "plain": chair.corpus_metrics(plain) | {"intervals": _intervals(resampled, metrics, PLAIN)},
        "mitigated": chair.corpus_metrics(runs[MITIGATED]) | {"intervals": _intervals(resampled, metrics, MITIGATED)},
        "difference": _rows(difference),
        "mcnemar": {"chair_s": mcnemar(_invented(plain), _invented(runs[MITIGATED]))},
    }
    if points:
        found["curve"] = {"points": _points(resampled, [0.0, *points], on_curve), "difference": _rows(equal)}
    if controls:
        found["controls"] = {
            name: _control(resampled, run, on_curve) for run, name in enumerate(aligned, start=1) if run != MITIGATED
        }
    return found


def compare_pope(
    plain: Sequence[QuestionScore],
    mitigated: Sequence[QuestionScore],
    *,
    controls: Mapping[str, Sequence[QuestionScore]] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Return a paired comparison of answers; intervals draw images, each with all its questions.

    Metrics at the top are means over splits; `splits` holds the difference within each.

    Args:
        plain, mitigated, controls, seed, resamples: as in `compare_chair`.

    Raises:
        AnswerMismatch: naming a question that is not in both runs.
    """
    others = {"mitigated": mitigated, **(controls or {})}
    aligned = {name: paired(plain, scores, _question)[1] for name, scores in others.items()}
    runs: list[Sequence[QuestionScore]] = [plain, *aligned.values()]
    splits = list(dict.fromkeys(score.question.split for score in plain))
    resampled = Resampled([_by_image(run, splits) for run in runs], seed=seed, resamples=resamples)
    within = {split: {name: _within(metric, split) for name, metric in pope.RATIOS.items()} for split in splits}
    metrics = _over_splits(splits)
    difference = _differences(resampled, metrics, MITIGATED, PLAIN)
    right = [[score.reading == score.question.label for score in run] for run in runs]
    found: dict[str, Any] = {
        "verdict": verdict(difference["false_yes_rate"], difference["recall"], accuracy=difference["accuracy"]),
        **_settings(_images(plain), seed, resamples),
        "questions": len(plain),
        "plain": pope.corpus_metrics(plain) | {"intervals": _intervals(resampled, metrics, PLAIN)},
        "mitigated": pope.corpus_metrics(runs[MITIGATED]) | {"intervals": _intervals(resampled, metrics, MITIGATED)},
        "difference": _rows(difference),
        "splits": {split: _rows(_differences(resampled, within[split], MITIGATED, PLAIN)) for split in splits},
        "mcnemar": {"accuracy": mcnemar(right[PLAIN], right[MITIGATED])},
    }
    if controls:
        found["controls"] = {
            name: {
                **pope.corpus_metrics(runs[run]),
                "difference": _rows(_differences(resampled, metrics, run, PLAIN)),
                "method_minus_control": _rows(_differences(resampled, metrics, MITIGATED, run)),
            }
            for run, name in enumerate(aligned, start=1)
            if run != MITIGATED
        }
    return found


def chair_intervals(scores: Sequence[CaptionScore], *, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return metric -> [low, high] of one run of captions; nothing without captions."""
    if not scores:
        return {}
    resampled = Resampled([[score.counts() for score in scores]], seed=seed, resamples=resamples)
    return _intervals(resampled, chair.RATIOS, PLAIN)


def pope_intervals(scores: Sequence[QuestionScore], *, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return metric -> [low, high] of the mean over splits of one run of answers; nothing without answers."""
    if not scores:
        return {}
    splits = list(dict.fromkeys(score.question.split for score in scores))
    resampled = Resampled([_by_image(scores, splits)], seed=seed, resamples=resamples)
    return _intervals(resampled, _over_splits(splits), PLAIN)


def _over_splits(splits: Sequence[str]) -> dict[str, Metric]:
    """Return POPE's metrics as means over splits."""
    return {
        name: Mean(tuple(_within(metric, split) for split in splits), metric.undefined)
        for name, metric in pope.RATIOS.items()
    }


def _image(score: CaptionScore) -> str:
    return f"image {image_key(score.image_id)}"


def _question(score: QuestionScore) -> str:
    return f"question {score.question.question_id} ({score.question.split})"


def _images(scores: Sequence[QuestionScore]) -> int:
    return len({image_key(score.question.image) for score in scores})


def _invented(scores: Sequence[CaptionScore]) -> list[bool]:
    return [bool(score.hallucinated) for score in scores]


def _settings(items: int, seed: int, resamples: int) -> dict[str, Any]:
    return {"n": items, "seed": seed, "resamples": resamples, "level": LEVEL}


def _differences(resampled: Resampled, metrics: Mapping[str, Metric], run: int, base: int) -> dict[str, Estimate]:
    return {name: resampled.difference(metric, run, base) for name, metric in metrics.items()}


def _intervals(resampled: Resampled, metrics: Mapping[str, Metric], run: int) -> dict[str, list[float | None]]:
    found = {name: resampled.estimate(metric, run) for name, metric in metrics.items()}
    return {name: [estimate.low, estimate.high] for name, estimate in found.items()}


def _rows(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: estimate.as_row() for name, estimate in estimates.items()}


def _equal_recall(resampled: Resampled, run: int, on_curve: Sequence[int]) -> dict[str, Estimate]:
    if not on_curve:
        return {}
    metrics = {name: chair.RATIOS[name] for name in CURVE_METRICS}
    return at_equal_recall(resampled, metrics, chair.RATIOS["recall"], method=run, curve=on_curve)


def _points(resampled: Resampled, biases: Sequence[float], on_curve: Sequence[int]) -> list[dict[str, Any]]:
    points = [
        {"bias": bias, **{name: resampled.value(metric, run) for name, metric in chair.RATIOS.items()}}
        for bias, run in zip(biases, on_curve, strict=True)
    ]
    return sorted(points, key=lambda point: point["bias"] or 0.0)


def _control(resampled: Resampled, run: int, on_curve: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {name: resampled.value(metric, run) for name, metric in chair.RATIOS.items()}
    found["difference"] = _rows(_differences(resampled, chair.RATIOS, run, PLAIN))
    found["method_minus_control"] = _rows(_differences(resampled, chair.RATIOS, MITIGATED, run))
    if on_curve:
        found["curve_difference"] = _rows(_equal_recall(resampled, run, on_curve))
    return found


def _by_image(scores: Sequence[QuestionScore], splits: Sequence[str]) -> list[Counts]:
    """Return the counts of every image, per split, in the order in which images first appear."""
    names = list(scores[0].counts()) if scores else []
    images: dict[str, dict[str, int]] = {}
    for score in scores:
        empty = dict.fromkeys((f"{split}/{name}" for split in splits for name in names), 0)
        row = images.setdefault(image_key(score.question.image), empty)
        for name, count in score.counts().items():
            row[f"{score.question.split}/{name}"] += count
    return list(images.values())


def _within(metric: Metric, split: str) -> Any:
    """Return a metric over the counts of one split."""
    if isinstance(metric, HarmonicMean):
        return HarmonicMean(_within(metric.first, split), _within(metric.second, split), metric.undefined)
    assert isinstance(metric, Ratio), "POPE's metrics are ratios and their harmonic means"
    return Ratio(f"{split}/{metric.numerator}", f"{split}/{metric.denominator}", metric.undefined)
