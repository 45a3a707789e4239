"""Captions read as `generate` would have written them: the prompt first, and then one token after the other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

_NEUTRAL = {"do_sample": False, "num_beams": 1, "return_dict_in_generate": True, "use_cache": True}
_UNSET = ("max_length", "eos_token_id", "temperature", "top_p", "top_k")  # captions end where they end


def read_along(model: Any, inputs: Mapping[str, Any], ids: Sequence[Sequence[int]]) -> tuple[list[list[float]], Any]:
    """Return the log-probabilities of captions' tokens and the cache, under all that is attached.

    The model's own `generate` is made to say the captions, so that methods which choose by the prompt, or act at each
    step, do as they did while it spoke.

    Args:
        model: that reads; its `generate` is the one that methods follow.
        inputs: of the prompts.
        ids: token ids of each caption.
    """
    saying = _Saying(ids)
    config = copy.deepcopy(model.generation_config)
    config.update(**_NEUTRAL, **dict.fromkeys(_UNSET), max_new_tokens=max(map(len, ids)) + 1)
    if config.pad_token_id is None:
        config.pad_token_id = 0
    output = model.generate(**inputs, generation_config=config, logits_processor=[saying])
    return saying.chances, output.past_key_values


class _Saying(LogitsProcessor):  # type: ignore[misc]
    """Lets each row say its own tokens, and keeps how probable they were.

    Attributes:
        chances: log-probability of each row's tokens.
    """

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        self.chances: list[list[float]] = [[] for _ in ids]
        self._ids, self._said = ids, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores `[B, V]` that leave each row one token; a caption that is over repeats its last one."""
        tokens = torch.tensor(
            [one[min(self._said, len(one) - 1)] if one else 0 for one in self._ids], device=scores.device
        )[:, None]
        heard = scores.float().log_softmax(dim=-1).gather(1, tokens)[:, 0].tolist()
        for row, chance in enumerate(heard):
            if self._said < len(self._ids[row]):
                self.chances[row].append(chance)
        self._said += 1
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, 0.0)
