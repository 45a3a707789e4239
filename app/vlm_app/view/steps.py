"""What each token of an answer was chosen from, and what every head told for it: through the picture, and otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vlm_heads import VLM, AttentionCall, UnsupportedModel, examine
from vlm_heads.scorers import OutputLayer, told

CANDIDATES = 5


@dataclass(frozen=True)
class Step:
    """One token, and what there was to choose from.

    Attributes:
        token: its id.
        against: the likeliest other token.
        candidates: the likeliest tokens with their probabilities, the likeliest first.
        chance: probability of the token.
        image, text: float32 `[L, Hq]`, what each head added directly to the logit of the token over that of the other,
            through the picture's keys and through all other keys; None where this cannot be read.
    """

    token: int
    against: int
    candidates: tuple[tuple[int, float], ...]
    chance: float
    image: NDArray[np.float32] | None = None
    text: NDArray[np.float32] | None = None


@dataclass
class _Outputs:
    """What the heads give in the last row of a forward, `[Hq, D]` by layer, and what of it comes from the picture."""

    whole: dict[int, Tensor] = field(default_factory=dict)
    image: dict[int, Tensor] = field(default_factory=dict)


class Steps:
    """Notes, step by step, what a generation chooses from.

    A head's output goes through its slice of the output projection, the final norm with its scale held, and the output
    layer (direct logit attribution); no later layer has a part in it.

    Attributes:
        found: one step for each token so far.
        reason: why heads cannot be read as words; empty where they can.
    """

    def __init__(self, vlm: VLM) -> None:
        self.found: list[Step] = []
        self.reason = ""
        self._anatomy = examine(vlm.model)
        self._now, self._last = _Outputs(), torch.empty(0)
        self._output: OutputLayer | None = None
        try:
            self._output = OutputLayer(vlm.model, self._anatomy)
        except UnsupportedModel as mistake:
            self.reason = str(mistake)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the last row before the final norm while the context lasts."""

        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._last = args[0][:1, -1]

        handle = None if self._output is None else self._output.norm.register_forward_pre_hook(note)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()

    def see(self, call: AttentionCall, weights: Tensor, places: Tensor) -> None:
        """Keep what a layer's heads give in the last row.

        Args:
            call: of the layer.
            weights: `[Hq, n]`, by which each head multiplied the values of the picture's keys.
            places: int64 `[n]`, of these keys.
        """
        assert call.output is not None, "watchers see it"
        heads, keys = weights.shape[0], call.value.shape[1]
        values = call.value[0, :, places].repeat_interleave(heads // keys, dim=0)
        self._now.whole[call.layer] = call.output[0, -1]
        self._now.image[call.layer] = torch.einsum("hn,hnd->hd", weights.to(values.dtype), values)

    def note(self, scores: Tensor, token: int) -> None:
        """Note one step.

        Args:
            scores: `[V]`, the logits of all tokens.
            token: that is said.
        """
        chances = scores.float().softmax(dim=-1)
        best = chances.topk(min(CANDIDATES + 1, len(chances)))
        ranked = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        against = next(one for one, _ in ranked if one != token)
        image, text = self._told(token, against)
        self.found.append(Step(token, against, tuple(ranked[:CANDIDATES]), float(chances[token]), image, text))
        self._now = _Outputs()

    def _told(self, token: int, against: int) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        if self._output is None:
            return None, None
        found = np.zeros((2, self._anatomy.depth, self._anatomy.heads), np.float32)
        words = self._output.matrix[token] - self._output.matrix[against]
        direction = self._output.through_norm(words[None], self._last)
        try:
            for layer, whole in self._now.whole.items():
                image = told(self._anatomy, layer, self._now.image[layer][None], direction)[:, 0]
                found[0, layer] = image.numpy()
                found[1, layer] = (told(self._anatomy, layer, whole[None], direction)[:, 0] - image).numpy()
        except UnsupportedModel as mistake:
            self._output, self.reason = None, str(mistake)
            return None, None
        return found[0], found[1]
