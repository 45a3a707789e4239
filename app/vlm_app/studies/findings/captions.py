"""Greedy captions of scenes with the probability of every token, and what they recall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor
from vlm_evals.protocol import DESCRIBE
from vlm_evals.scenes.catalog import CATEGORIES
from vlm_evals.scenes.world import Scene
from vlm_evals.text.objects import ObjectFinder

from vlm_heads import VLM

MOST_TOKENS = 128
BATCH = 16


@dataclass(frozen=True)
class Caption:
    """What a model says about a scene when it is asked to describe it.

    Attributes:
        ids: of its tokens, without the end.
        chances: the probability that the model gave each of them.
        text: the caption.
    """

    ids: tuple[int, ...]
    chances: tuple[float, ...]
    text: str


def greedy_captions(
    vlm: VLM, pictures: Sequence[Scene], progress: Callable[[int], object] = lambda count: None
) -> list[Caption]:
    """Return the greedy caption of every scene, made in batches; `progress` hears how many more are done."""
    captions: list[Caption] = []
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        inputs = vlm.inputs([picture_of(scene) for scene in batch], DESCRIBE)
        chances = _Chances()
        with torch.inference_mode():
            output: Tensor = vlm.model.generate(
                **inputs, max_new_tokens=MOST_TOKENS, do_sample=False, logits_processor=[chances]
            )
        said = output[:, inputs["input_ids"].shape[1] :].tolist()
        captions += [_caption(vlm, ids, row) for ids, row in zip(said, chances.by_row(), strict=True)]
        progress(len(batch))
    return captions


def picture_of(scene: Scene) -> Image.Image:
    """Return a scene as a picture."""
    return Image.fromarray(scene.image)


def shown_in(scene: Scene) -> set[str]:
    """Return the names of the objects that a scene shows."""
    return {CATEGORIES[category].name for category in scene.categories}


def recalls(captions: Sequence[Caption], pictures: Sequence[Scene]) -> dict[str, float]:
    """Return the share of objects that captions name: of the scene they are about, and of another.

    `shuffled` holds each scene's caption against the next scene's objects: what a model would recall that knows the
    world and does not look.
    """
    finder = ObjectFinder()
    said = [{mention.node for mention in finder.find(caption.text).mentions} for caption in captions]
    shown = [shown_in(scene) for scene in pictures]
    return {"own": recall(said, shown), "shuffled": recall(said, [*shown[1:], *shown[:1]])}


def recall(said: Sequence[set[str]], shown: Sequence[set[str]]) -> float:
    """Return the share of all objects shown that were said of the same scene."""
    found = sum(len(named & there) for named, there in zip(said, shown, strict=True))
    return found / sum(len(there) for there in shown)


class _Chances(LogitsProcessor):  # type: ignore[misc]
    """Keeps the probability of the token that greedy decoding takes at each step."""

    def __init__(self) -> None:
        self._steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._steps.append(scores.float().softmax(-1).amax(-1).cpu())
        return scores

    def by_row(self) -> list[list[float]]:
        rows: list[list[float]] = torch.stack(self._steps, dim=1).tolist()
        return rows


def _caption(vlm: VLM, ids: Sequence[int], chances: Sequence[float]) -> Caption:
    ends = vlm.model.generation_config.eos_token_id
    stops = set(ends) if isinstance(ends, list) else {ends}
    length = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    text = vlm.processor.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
    return Caption(tuple(ids[:length]), tuple(chances[:length]), text)
