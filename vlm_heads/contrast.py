"""Second-stream decoding: what the next token would be with another image, none, or another prompt, and the difference.

    processor = contrast.noised_image(model, inputs)                        # VCD
    model.generate(**inputs, logits_processor=[processor])

Every method of this kind weighs two streams of token logits, `a * z + b * z2`, among the tokens that the first stream
finds plausible. They differ in what the second stream sees and in the weights. Works inside `attach`, whose
interventions edit the first stream only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

from vlm_heads.attached.second_stream import SecondStream
from vlm_heads.blind import TextOnly
from vlm_heads.errors import BadOption, UnsupportedGeneration
from vlm_heads.families import examine
from vlm_heads.key_map import KeyMap
from vlm_heads.toolkit.image_changes import diffused
from vlm_heads.toolkit.options import require_number

Inputs = Mapping[str, Any]
Weights = Callable[[int], tuple[float, float]]


class ContrastProcessor(LogitsProcessor):  # type: ignore[misc]
    """Weighs a second stream of token logits against the first, for `generate(..., logits_processor=[...])`.

    Returns log-probabilities, so that beams compare. It may be used for several generations of the same inputs, one
    after the other; each starts clean.

    Args:
        stream: the second stream.
        weights: of the first and the second stream at a step, counted from 0.
        bound: tokens less probable than this share of the first stream's most probable one are excluded; 0 excludes
            none.
    """

    def __init__(self, stream: SecondStream, weights: Weights, bound: float) -> None:
        require_number("bound", bound, at_least=0.0, at_most=1.0)
        self._stream = stream
        self._weights = weights
        self._bound = bound
        self._prompt_length = 0
        self._seen: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return log-probabilities `[R, V]` of the weighed streams.

        Raises:
            UnsupportedGeneration: if several tokens were added at once, or rows do not match the second stream's.
        """
        second = self._second(input_ids)
        first, second = scores.log_softmax(dim=-1), second.to(scores.dtype).log_softmax(dim=-1)
        of_first, of_second = self._weights(input_ids.shape[1] - self._prompt_length)
        weighed = of_first * first + of_second * second
        if self._bound > 0.0:
            least = first.amax(dim=-1, keepdim=True) + math.log(self._bound)
            weighed = weighed.masked_fill(first < least, -torch.inf)
        return weighed.log_softmax(dim=-1)

    def _second(self, ids: Tensor) -> Tensor:
        """Return the second stream's logits for these tokens, `[R, V]`."""
        rows, length = ids.shape
        seen, self._seen = self._seen, ids
        if seen is None or length == self._prompt_length:
            if rows % self._stream.rows:
                raise UnsupportedGeneration(f"{rows} rows are generated, but the second stream has {self._stream.rows}")
            copies = rows // self._stream.rows
            if not torch.equal(ids[::copies].repeat_interleave(copies, dim=0), ids):
                raise UnsupportedGeneration(
                    f"{rows} different rows are generated, but the second stream has {self._stream.rows}"
                )
            self._prompt_length = length
            return self._stream.begin(copies)
        if seen.shape != (rows, length - 1):
            raise UnsupportedGeneration(
                "a second stream goes token by token with one set of inputs: candidates that assisted decoding takes "
                "back cannot be unsaid, and other inputs need a processor of their own"
            )
        parents = None
        if rows > self._stream.rows:  # beams: each row goes on from a row with the same tokens so far
            parents = (ids[:, None, :-1] == seen[None]).all(dim=-1).long().argmax(dim=1)
        return self._stream.step(ids[:, -1], parents)


def noised_image(
    model: nn.Module, inputs: Inputs, *, alpha: float = 1.0, bound: float = 0.1, noise_step: int = 500, seed: int = 0
) -> ContrastProcessor:
    """Return VCD (Leng et al., CVPR 2024): `(1 + alpha) z - alpha z(noised image)`.

    Args:
        model: that generates.
        inputs: of the first stream.
        alpha: strength; 0 leaves the first stream alone.
        bound: see `ContrastProcessor`.
        noise_step: of the diffusion's 1000 steps.
        seed: of the noise, the same for every row of the batch.

    Raises:
        BadOption: if an option is out of its range, or the inputs hold no image.
    """
    if "pixel_values" not in inputs:
        raise BadOption("a noised image needs pixel_values in the inputs")
    noised = {**inputs, "pixel_values": diffused(inputs["pixel_values"], noise_step, seed)}
    return other_inputs(model, noised, alpha=alpha, bound=bound)


def other_inputs(model: nn.Module, inputs: Inputs, *, alpha: float = 1.0, bound: float = 0.1) -> ContrastProcessor:
    """Return `(1 + alpha) z - alpha z2` with a second stream of any inputs.

    ICD (Wang et al., ACL 2024) is this with a disturbing instruction put before the prompt. LQCD is this with a leading
    question in `inputs` while the first stream is asked the neutral one.

    Args:
        model: that generates.
        inputs: of the second stream, as many rows as the first.
        alpha: strength; 0 leaves the first stream alone.
        bound: see `ContrastProcessor`.
    """
    require_number("alpha", alpha, at_least=0.0)
    return ContrastProcessor(SecondStream(model, inputs), lambda _: (1.0 + alpha, -alpha), bound)


def image_free(model: nn.Module, inputs: Inputs, *, gamma: float = 1.1, bound: float = 0.1) -> ContrastProcessor:
    """Return PAI's second half (Liu et al., ECCV 2024): `gamma z - (gamma - 1) z(no image)`.

    Args:
        model: that generates.
        inputs: of the first stream.
        gamma: strength; 1 leaves the first stream alone.
        bound: see `ContrastProcessor`.
    """
    require_number("gamma", gamma, at_least=1.0)
    return ContrastProcessor(_without_image(model, inputs), lambda _: (gamma, 1.0 - gamma), bound)


def fading_image(model: nn.Module, inputs: Inputs, *, rate: float = 0.02, bound: float = 0.1) -> ContrastProcessor:
    """Return M3ID (Favero et al., CVPR 2024): `z + (1 - g) / g (z - z(no image))` with `g = exp(-rate t)`.

    `t` counts the tokens generated so far, so the first token is the first stream's own.

    Args:
        model: that generates.
        inputs: of the first stream.
        rate: at which the image is forgotten; 0 leaves the first stream alone.
        bound: see `ContrastProcessor`.
    """
    require_number("rate", rate, at_least=0.0)

    def weights(step: int) -> tuple[float, float]:
        missing = math.expm1(rate * step)  # (1 - g) / g
        return 1.0 + missing, -missing

    return ContrastProcessor(_without_image(model, inputs), weights, bound)


def changed_image(model: nn.Module, inputs: Inputs, *, weight: float = 3.0, bound: float = 0.1) -> ContrastProcessor:
    """Return RITUAL (Woo et al. 2024): `z + weight z(changed image)`, an ensemble and no contrast.

    Args:
        model: that generates.
        inputs: of the second stream, made from images changed as by `image_changes.random_change`.
        weight: of the second stream; 0 leaves the first stream alone.
        bound: see `ContrastProcessor`.
    """
    require_number("weight", weight, at_least=0.0)
    return ContrastProcessor(SecondStream(model, inputs), lambda _: (1.0, weight), bound)


def _without_image(model: nn.Module, inputs: Inputs) -> SecondStream:
    """Return the stream of the same prompts, their image tokens deleted."""
    ids: Tensor = inputs["input_ids"]
    key_map = KeyMap.of_prompt(ids, inputs.get("attention_mask"), examine(model).image_token_id)
    if not key_map.any_image:
        raise BadOption("no prompt has an image, so a stream without image would be the first stream itself")
    text = TextOnly.of(key_map.classes)
    kept = text.of_inputs(inputs, {})
    return SecondStream(model, {name: kept[name] for name in kept if name not in ("use_cache", "position_ids")})
