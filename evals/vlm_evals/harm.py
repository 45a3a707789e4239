"""Whether a mitigation spoils other answers: a small check on neutral prompts, with and without a picture.

text alone       questions that no picture belongs to; a second stream and a check have nothing to work on there
pictures alone   pictures of nothing: one colour, a gradient, stripes, noise, and what a plain model says of them

The plain and the mitigated model answer every prompt greedily. Told are how many tokens agree, place by place, how
probable the plain model finds either answer (perplexity), and how much of an answer repeats itself. A mitigation for
pictures leaves the first part as it was. Its answers in the second are no less probable and repeat no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor

from vlm_evals.answer import PLAIN, Asking
from vlm_evals.records import write_json
from vlm_evals.scored import HARM
from vlm_heads import VLM, Mitigation, attach
from vlm_heads.errors import VlmHeadsError

TOKENS = 24  # of an answer
# what transformers raises where a model does not take a text without a picture, or has no room for it
REFUSALS = (LookupError, RuntimeError, TypeError, ValueError)
SIDE = 224  # pixels of a picture
TEXTS = (
    "What is the capital of France?",
    "Write one sentence about the rain.",
    "Count from one to ten.",
    "Why do people sleep at night?",
    "Name three colours.",
    "Translate into Spanish: good morning.",
)
LOOKS = ("Please describe this image in detail.", "Which colours do you see?")

Said = list[tuple[int, ...]]  # the tokens of an answer, for every prompt
Say = Callable[[Mitigation, list[Any]], Said]


class Follow(LogitsProcessor):  # type: ignore[misc]
    """Makes a generation say given tokens, and records how probable each was.

    Args:
        answers: the tokens of every row. A row whose tokens are said goes on as it likes.
    """

    def __init__(self, answers: Said) -> None:
        self._answers = answers
        self._step = 0
        self.log_probabilities: list[list[float]] = [[] for _ in answers]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return logits `[R, V]` that leave each row its next given token alone."""
        found = scores.clone()
        logs = scores.double().log_softmax(dim=-1)
        for row, tokens in enumerate(self._answers):
            if self._step < len(tokens):
                token = tokens[self._step]
                self.log_probabilities[row].append(float(logs[row, token]))
                found[row] = -math.inf
                found[row, token] = 0.0
        self._step += 1
        return found


@dataclass(frozen=True)
class Pair:
    """What was said to one prompt, and how probable the plain model finds it.

    Attributes:
        plain, mitigated: tokens.
        plain_log, mitigated_log: natural logarithm of each token's probability in the plain model.
    """

    plain: tuple[int, ...]
    mitigated: tuple[int, ...]
    plain_log: tuple[float, ...]
    mitigated_log: tuple[float, ...]


def measure_harm(vlm: VLM, mitigation: Mitigation, batch_size: int = 8) -> dict[str, Any]:
    """Return what a mitigation does to neutral answers.

    Args:
        vlm: the model.
        mitigation: what is done to it.
        batch_size: prompts in one generation.

    Returns:
        part ("text", "pictures") -> `prompts`, `same` (answers that are equal), `agreement`, `perplexity` and
        `repeated` (side -> value), or `untouched` or `refused` with a sentence; and `tokens`, the longest answer.
    """
    on_text = replace(mitigation, contrast=None, check=None)
    asked = [(picture, look) for picture in pictures() for look in LOOKS]
    text: dict[str, Any] = {"untouched": "it has nothing that acts without a picture"}
    if on_text:
        text = _part(on_text, [_text_alone(vlm, some) for some in _batches(TEXTS, batch_size)])
    looked = _part(mitigation, [_of_pictures(vlm, some) for some in _batches(asked, batch_size)])
    return {"text": text, "pictures": looked, "tokens": TOKENS}


def keep_harm(folder: Path, asking: Asking, mitigation: Mitigation) -> None:
    """Write what a mitigation does to neutral answers into its run directory, where it is not there yet."""
    if not (folder / HARM).is_file():
        write_json(folder / HARM, measure_harm(asking.vlm, mitigation, asking.batch_size))


def pictures() -> list[Image.Image]:
    """Return pictures of nothing: one colour, a gradient, stripes, noise."""
    ramp = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
    stripes = np.where(np.arange(SIDE)[None, :] // 28 % 2, 255, 0).astype(np.uint8).repeat(SIDE, axis=0)
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    grey = np.full((SIDE, SIDE), 128, dtype=np.uint8)
    return [Image.fromarray(one).convert("RGB") for one in (grey, ramp, stripes, noise)]


def _batches(asked: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [asked[start : start + size] for start in range(0, len(asked), size)]


def _part(mitigation: Mitigation, batches: Sequence[Say]) -> dict[str, Any]:
    """Return the figures of one part, or why it cannot be asked: that costs nobody the report of a long evaluation."""
    try:
        return figures([pair for say in batches for pair in _pairs(mitigation, say)])
    except (VlmHeadsError, *REFUSALS) as error:
        return {"refused": str(error).strip().split("\n")[0][:200] or type(error).__name__}


def _pairs(mitigation: Mitigation, say: Say) -> list[Pair]:
    plain, mitigated = say(PLAIN, []), say(mitigation, [])
    logs = _followed(say, plain)
    changed = logs if mitigated == plain else _followed(say, mitigated)
    return [Pair(*one) for one in zip(plain, mitigated, logs, changed, strict=True)]


def _followed(say: Say, answers: Said) -> list[tuple[float, ...]]:
    """Return how probable the plain model finds each token of every answer."""
    follow = Follow(answers)
    say(PLAIN, [follow])
    return [tuple(one) for one in follow.log_probabilities]


def figures(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return what pairs of answers come to; see `measure_harm`."""
    longest = sum(max(len(one.plain), len(one.mitigated)) for one in pairs)
    equal = sum(a == b for one in pairs for a, b in zip(one.plain, one.mitigated, strict=False))
    logs = {"plain": [one.plain_log for one in pairs], "mitigated": [one.mitigated_log for one in pairs]}
    said = {"plain": [one.plain for one in pairs], "mitigated": [one.mitigated for one in pairs]}
    return {
        "prompts": len(pairs),
        "same": sum(one.plain == one.mitigated for one in pairs),
        "agreement": equal / longest if longest else None,
        "perplexity": {side: _perplexity(one) for side, one in logs.items()},
        "repeated": {side: _repeated(one) for side, one in said.items()},
    }


def _perplexity(logs: Sequence[Sequence[float]]) -> float | None:
    """Return the perplexity over all tokens of all answers; None where one of them is impossible, or none is said."""
    every = [one for answer in logs for one in answer]
    mean = sum(every) / len(every) if every else -math.inf
    return math.exp(-mean) if math.isfinite(mean) else None


def _repeated(said: Sequence[Sequence[int]]) -> float | None:
    """Return the share of the runs of four tokens that stood in the same answer before; None where there are none."""
    runs = [[tuple(answer[place : place + 4]) for place in range(len(answer) - 3)] for answer in said]
    count = sum(map(len, runs))
    return sum(len(one) - len(set(one)) for one in runs) / count if count else None


def _of_pictures(vlm: VLM, asked: Sequence[tuple[Image.Image, str]]) -> Say:
    """Return what asks about pictures, all in one batch where the mitigation takes one."""

    def say(mitigation: Mitigation, processors: list[Any]) -> Said:
        more: dict[str, Any] = {"logits_processor": processors} if processors else {}
        answers = []
        for some in [asked] if mitigation.batched else [[one] for one in asked]:
            images, prompts = [picture for picture, _ in some], [prompt for _, prompt in some]
            with attach(vlm.model, replace(mitigation, contrast=None), allow_idle=True, processor=vlm.processor):
                answers += vlm.answer_batch(
                    images, prompts, contrast=mitigation.contrast, max_new_tokens=TOKENS, do_sample=False, **more
                )
        return [tuple(answer.token_ids[:TOKENS]) for answer in answers]

    return say


def _text_alone(vlm: VLM, texts: Sequence[str]) -> Say:
    """Return what asks questions that no picture belongs to, all in one batch."""

    def say(mitigation: Mitigation, processors: list[Any]) -> Said:
        tokenizer = vlm.processor.tokenizer
        tokenizer.padding_side = "left"  # generation continues from the right edge
        turns = [_turn(vlm.processor, text) for text in texts]
        batch = tokenizer(turns, padding=len(turns) > 1, return_tensors="pt").to(vlm.device)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        ends = vlm.model.generation_config.eos_token_id
        last = set(ends) if isinstance(ends, list) else {ends}
        more: dict[str, Any] = {"logits_processor": processors} if processors else {}
        with torch.inference_mode(), attach(vlm.model, mitigation, allow_idle=True, processor=vlm.processor):
            output = vlm.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, num_beams=1, **more)
        return [_until(row, last) for row in output[:, inputs["input_ids"].shape[1] :].tolist()]

    return say


def _until(row: Sequence[int], ends: Collection[int]) -> tuple[int, ...]:
    """Return a row up to the first token that ends it, which is kept: what follows is padding."""
    end = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
    return tuple(row[:end])


def _turn(processor: Any, prompt: str) -> str:
    """Return a user's turn without a picture, as the chat template writes it; the prompt where there is none."""
    if not getattr(processor, "chat_template", None):
        return prompt
    content = [{"type": "text", "text": prompt}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
