"""Whole captions, plain and under mitigations: what a method costs whoever waits, with its questions and drafts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from vlm_evals.protocol import DESCRIBE
from vlm_evals.reports.pairs import PLAIN
from vlm_evals.scenes.world import scenes

from vlm_app.speed.timing import clock_of, wait
from vlm_heads import VLM, Mitigation


def time_captions(
    vlm: VLM,
    named: Mapping[str, Mitigation],
    *,
    captions: int,
    batch: int,
    rounds: int,
    limit: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return what a caption takes plain and under each mitigation, greedy, on scenes of the embedded world.

    The ways take turns on each batch, so a machine that slows down slows all of them; a ratio is taken within a turn
    over all batches.

    Args:
        vlm: the model.
        named: mitigations by name.
        captions: scenes that are captioned.
        batch: of them in one generation.
        rounds: how often each way captions all of them, after one batch that is thrown away.
        limit: tokens of a caption.
        seed: draws the scenes.

    Returns:
        way -> `seconds` of a caption and `ratio` to plain (medians over turns), the least and the greatest ratio of a
        turn, and `tokens`, the mean length of what is said in the end.
    """
    pictures = [Image.fromarray(one.image) for one in scenes("held-out", seed, captions)]
    batches = [pictures[start : start + batch] for start in range(0, captions, batch)]
    ways = {PLAIN: Mitigation(), **named}
    spent: dict[str, list[float]] = {name: [0.0] * rounds for name in ways}
    said: dict[str, int] = dict.fromkeys(ways, 0)
    for mitigation in ways.values():
        _caption(vlm, batches[0], mitigation, limit)
    for turn in range(rounds):
        for some in batches:
            for name, mitigation in ways.items():
                seconds, tokens = _caption(vlm, some, mitigation, limit)
                spent[name][turn] += seconds
                said[name] += tokens
    return {name: _summed(spent[name], spent[PLAIN], captions, said[name] / rounds) for name in ways}


def _caption(vlm: VLM, pictures: Sequence[Image.Image], mitigation: Mitigation, limit: int) -> tuple[float, int]:
    """Return the seconds that the captions of a batch take, and how many tokens they have."""
    clock: Any = clock_of(vlm)
    wait(vlm.device)
    start = clock()
    answers = vlm.answer_batch(pictures, DESCRIBE, mitigation, allow_idle=True, do_sample=False, max_new_tokens=limit)
    wait(vlm.device)
    return clock() - start, sum(len(one.token_ids) for one in answers)


def _summed(spent: Sequence[float], plain: Sequence[float], captions: int, tokens: float) -> dict[str, float]:
    ratios = [one / base for one, base in zip(spent, plain, strict=True)]
    return {
        "seconds": statistics.median(spent) / captions,
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "tokens": tokens / captions,
    }
