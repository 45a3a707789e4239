"""Two halves of somebody's pictures: settings are chosen on one and measured on the other."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from vlm_evals.answer import Processes
from vlm_evals.arms import BIASES, Arm, bias_name, curve_arms
from vlm_evals.data.coco import CocoFolder
from vlm_evals.data.pope_questions import PER_IMAGE
from vlm_evals.endpoint.asking import Asker
from vlm_evals.errors import TaskError
from vlm_evals.experiment import ask_arms, find_data
from vlm_evals.protocol import Protocol
from vlm_evals.registry import find_metric
from vlm_evals.reports.pairs import PLAIN, Comparison, compare
from vlm_evals.scored import score_run
from vlm_evals.tasks import asked_of, bind

from vlm_app.console import progress, remark
from vlm_app.studies.chosen import CAPTIONS, QUESTIONS
from vlm_heads import Mitigation

WORLD = "world-validation"
Halves = tuple[CocoFolder, CocoFolder]


def pictures_of(
    given: CocoFolder | None, out: Path, *, captions: int, questioned: int, seed: int, processes: Processes
) -> tuple[CocoFolder, str]:
    """Return the pictures to choose and measure on, and the name of the built-in protocol that fits them.

    Args:
        given: somebody's; None for the embedded world's, which are drawn into `out` where they are missing.
        out: folder of everything asked.
        captions: pictures captioned, per half.
        questioned: pictures that questions are asked about, per half.
        seed: draws the scenes.
        processes: those that share the work.
    """
    limit = 2 * max(captions, questioned)
    data = given or find_data(
        WORLD, CAPTIONS, None, out, limit=limit, seed=seed, processes=processes, progress=progress
    )
    if lacking := data.shortfall:
        remark(lacking)
    return data, WORLD if given is None else "coco"


def halves(data: CocoFolder, *, captions: int, questioned: int, seed: int) -> Halves:
    """Return two halves of a data folder that share no picture, drawn by the seed.

    Raises:
        TaskError: if a half has not enough pictures.
    """
    images = sorted(data.images)
    random.Random(seed).shuffle(images)
    half = len(images) // 2
    parts = data.only(images[:half]), data.only(images[half:])
    captioned = min(len(part.images) for part in parts)
    eligible = min(len(asked_of(QUESTIONS).eligible(part)) for part in parts)
    if captioned < captions or eligible < questioned:
        raise TaskError(
            f"each half of the {len(images)} pictures in {data.root} has {captioned} to caption and {eligible} with "
            f"{PER_IMAGE} objects to ask about: lower --captions {captions} or --questioned {questioned}"
        )
    return parts


def protocols(
    template: str, part: CocoFolder, *, captions: int, questioned: int, max_tokens: int | None, seed: int
) -> dict[str, Protocol]:
    """Return what is asked about a half: captions, and questions about objects."""
    tokens = {} if max_tokens is None else {"max_new_tokens": max_tokens}
    return {
        CAPTIONS: bind(template, CAPTIONS, part, limit=captions, seed=seed, **tokens),
        QUESTIONS: bind(template, QUESTIONS, part, limit=questioned, seed=seed),
    }


def measure(
    asking: Asker, mitigations: Mapping[str, Mitigation], part: CocoFolder, bound: Mapping[str, Protocol], out: Path,
    processes: Processes, *, curve: bool = False,
) -> dict[str, Comparison]:  # fmt: skip
    """Return, for each metric, every mitigation compared with the plain model.

    Args:
        asking: the model or the server; its mitigation is not used.
        mitigations: by the names of their rows and folders.
        part: pictures and annotations.
        bound: what is asked about them.
        out: folder of the runs; what lies there is not asked again.
        processes: those that share the work.
        curve: whether the plain model's trade-off curve stands beside captions.
    """
    found: dict[str, Comparison] = {}
    for name, protocol in bound.items():
        metric, folder = find_metric(name), out / name
        biases = BIASES if curve and metric.curve is not None else ()
        plain = [Arm(PLAIN), *(curve_arms() if biases else ())]
        arms = [Arm(setting, mitigation) for setting, mitigation in mitigations.items()]
        ask_arms(asking, protocol, part, [*plain, *arms], folder, processes=processes, progress=progress)
        found[name] = compare(
            metric,
            score_run(folder / PLAIN).scores,
            {setting: score_run(folder / setting).scores for setting in mitigations},
            curve={bias: score_run(folder / bias_name(bias)).scores for bias in biases},
            seed=protocol.seed,
        )
    return found
