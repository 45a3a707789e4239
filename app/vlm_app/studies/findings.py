"""Measures what is true of a model on the embedded world: its vision-aware heads and its sinks, whether T-VHD tells
inventions apart, and what it would recall without looking.

vlm-heads study findings --out runs/findings
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata
from vlm_evals.errors import EvaluationError
from vlm_evals.protocol import DESCRIBE
from vlm_evals.records import write_json
from vlm_evals.scenes.catalog import CATEGORIES
from vlm_evals.scenes.world import Scene, scenes
from vlm_evals.text.objects import ObjectFinder
from vlm_evals.text.places import pieces_that_mention

from vlm_app.models import load_vlm
from vlm_heads import VLM, score_heads, token_grounding
from vlm_heads.models import model_inputs

RESAMPLES = 2000
BATCH = 50


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


def first_mentions(vlm: VLM, pictures: Sequence[Scene]) -> Iterator[FirstMention]:
    """Yield the first mention of every object in greedy captions; repeats copy the text and would hide the effect."""
    finder = ObjectFinder()
    for number, scene in enumerate(pictures):
        ids, probabilities = _greedy(vlm, Image.fromarray(scene.image))
        traced = token_grounding(vlm.model, vlm.processor, Image.fromarray(scene.image), DESCRIBE, ids)
        shown = {CATEGORIES[category].name for category in scene.categories}
        known: set[str] = set()
        for first, _, node in pieces_that_mention(finder, [piece.text for piece in traced]):
            if node not in known:
                known.add(node)
                yield FirstMention(number, node not in shown, traced[first].t_vhd, probabilities[first], first)


def _greedy(vlm: VLM, picture: Image.Image) -> tuple[list[int], list[float]]:
    """Return the greedy caption's token ids, without the end, and the probability of each."""
    inputs = model_inputs(vlm.model, vlm.processor, [picture], [DESCRIBE])
    output = vlm.model.generate(
        **inputs, max_new_tokens=96, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chances = [float(step[0].softmax(-1)[token]) for step, token in zip(output.logits, ids, strict=True)]
    end = vlm.model.generation_config.eos_token_id
    if ids[-1] == end:
        ids, chances = ids[:-1], chances[:-1]
    return ids, chances


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
    invented = np.array([mention.invented for mention in mentions])
    if len(set(invented.tolist())) < 2:
        raise EvaluationError(f"{invented.sum()} of {len(invented)} mentions are invented: give more --images")
    score = np.array([float(getattr(mention, name)) for mention in mentions])
    caption = np.array([mention.caption for mention in mentions])
    members = [np.flatnonzero(caption == number) for number in np.unique(caption)]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if 0 < invented[chosen].sum() < len(chosen):
            values.append(auc(invented[chosen], score[chosen]))
    low, high = np.quantile(values, [0.025, 0.975])
    return {"auc": auc(invented, score), "low": float(low), "high": float(high)}


def head_spread(vlm: VLM, pictures: Sequence[Scene]) -> list[dict[str, float]]:
    """Return, per layer, the largest VHD, the median, their ratio, and the layer's share of all VHD."""
    profile = score_heads(vlm.model, vlm.processor, [Image.fromarray(scene.image) for scene in pictures])
    total = float(profile.scores.sum())
    rows = []
    for layer, scores in enumerate(profile.scores):
        middle = float(scores.median())
        rows.append(
            {
                "layer": layer,
                "max": float(scores.max()),
                "median": middle,
                "max_over_median": float(scores.max()) / middle,
                "share": float(scores.sum()) / total,
            }
        )
    return rows


@torch.no_grad()
def sinks(vlm: VLM, pictures: Sequence[Scene]) -> list[dict[str, float]]:
    """Return, per layer, how far the largest channel stands out and how much attention the first token draws.

    `activation` is the largest |x| / RMS(x) over tokens and channels of the layer's input (at most sqrt(width));
    `first_token` the largest mean weight that any head gives the first token, over text rows after the image.
    """
    model = vlm.model
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    try:
        inputs = model_inputs(
            model, vlm.processor, [Image.fromarray(scene.image) for scene in pictures], [DESCRIBE] * len(pictures)
        )
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
    finally:
        model.set_attn_implementation({"text_config": before})
    after = int((inputs["input_ids"][0] == model.config.image_token_id).nonzero().max()) + 1
    rows = []
    for layer, (hidden, weights) in enumerate(zip(output.hidden_states[:-1], output.attentions, strict=True)):
        scale = (hidden.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        first = weights[:, :, after:, 0].mean((0, 2))
        rows.append(
            {"layer": layer, "activation": float((hidden.abs() / scale).max()), "first_token": float(first.max())}
        )
    return rows


def recalls(vlm: VLM, pictures: Sequence[Scene]) -> dict[str, float]:
    """Return the share of objects that greedy captions name: of the scene they are about, and of another.

    `shuffled` holds each scene's caption against the next scene's objects: what a model would recall that knows the
    world and does not look.
    """
    finder = ObjectFinder()
    images = [Image.fromarray(scene.image) for scene in pictures]
    said: list[set[str]] = []
    for start in range(0, len(images), BATCH):
        answers = vlm.answer_batch(images[start : start + BATCH], DESCRIBE, max_new_tokens=96)
        said += [{mention.node for mention in finder.find(answer.text).mentions} for answer in answers]
    shown = [{CATEGORIES[category].name for category in scene.categories} for scene in pictures]
    return {"own": recall(said, shown), "shuffled": recall(said, [*shown[1:], *shown[:1]])}


def recall(said: Sequence[set[str]], shown: Sequence[set[str]]) -> float:
    """Return the share of all objects shown that were said of the same scene."""
    found = sum(len(named & there) for named, there in zip(said, shown, strict=True))
    return found / sum(len(there) for there in shown)


def find(out: Path, *, model: str, images: int, seed: int, device: str | None) -> dict[str, Any]:
    """Measure what is true of a model on held-out scenes, write findings.json and return what it holds.

    Args:
        out: folder for findings.json.
        model: what `load_vlm` takes.
        images: held-out scenes to caption.
        seed: draws the scenes and the resamples.
        device: of the model; a GPU by default if there is one.
    """
    vlm = load_vlm(model, device, seed)
    pictures = list(scenes("held-out", seed, images))
    mentions = list(first_mentions(vlm, pictures))
    found: dict[str, Any] = {
        "images": images,
        "first_mentions": len(mentions),
        "invented": sum(mention.invented for mention in mentions),
        "auc": {name: auc_with_interval(mentions, name, seed) for name in ("t_vhd", "probability")},
        "mean_position": {
            word: float(np.mean([mention.position for mention in mentions if mention.invented is invented]))
            for word, invented in (("faithful", False), ("invented", True))
        },
        "recall": recalls(vlm, pictures),
        "heads": head_spread(vlm, pictures[:64]),
        "sinks": sinks(vlm, pictures[:16]),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "findings.json", found)
    return found
