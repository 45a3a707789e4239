"""Forwards of several beams on one prompt: on from each token, aside for a token that is tried, and back again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlm_heads.call import AttentionCall
from vlm_heads.toolkit.first_pass import FirstPass
from vlm_heads.toolkit.row_attention import image_keys, row_weights


class BeamForwards:
    """Feeds one model, inside its own `generate`, which prepared what its forwards take.

    Attributes:
        count: forwards so far, the prompt's included.

    Args:
        model: that generates.
        prompt: int64 `[R, T]`, the same prompt in every row.
        arguments: of its forward, with an empty cache.
    """

    def __init__(self, model: Any, prompt: Tensor, arguments: Mapping[str, Any]) -> None:
        self.count = 0
        self._model, self._prompt = model, prompt
        self._arguments = dict(arguments)
        self._after_prompt: dict[str, Any] = {}
        self._first = torch.empty(0)

    def begin(self) -> Tensor:
        """Return token logits float64 `[R, V]` after the prompt."""
        self._first = self._fed(self._prompt, first=True)
        self._after_prompt = self._copied(self._arguments)
        return self._first

    def go_on(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """Return token logits `[R, V]` after one more token per row, int64 `[R]`, each row on from its parent."""
        self._arguments["past_key_values"].reorder_cache(parents)
        return self._fed(tokens[:, None])

    def aside(self, tokens: Tensor) -> None:
        """Run a forward on one more token per row, int64 `[R]`, and forget it."""
        own, self._arguments = self._arguments, self._copied(self._arguments)
        self._fed(tokens[:, None])
        self._arguments = own

    def back(self, said: Tensor) -> Tensor:
        """Return token logits `[R, V]` after the prompt and what was said, int64 `[R, n]`, fed token by token again."""
        self._arguments = self._copied(self._after_prompt)
        logits = self._first
        for tokens in said.unbind(dim=1):
            logits = self._fed(tokens[:, None])
        return logits

    def _fed(self, ids: Tensor, first: bool = False) -> Tensor:
        # the families' own steps of generation: they know which inputs grow, and how positions go on
        given = self._model.prepare_inputs_for_generation(
            ids, next_sequence_length=ids.shape[1], is_first_iteration=first, **self._arguments
        )
        output = self._model(**given, return_dict=True)
        self._arguments = self._model._update_model_kwargs_for_generation(
            output, self._arguments, is_encoder_decoder=False
        )
        self.count += 1
        logits: Tensor = output.logits
        return logits[:, -1].double()

    @staticmethod
    def _copied(arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with a cache of their own; the rest is never written to."""
        return {**arguments, "past_key_values": copy.deepcopy(arguments["past_key_values"])}


class LastRow(FirstPass):
    """Reads in each later forward, on one layer, what the newest row's strongest heads attend to.

    Of each key the largest weight of all heads is taken, and a row of these is divided by its sum.

    Attributes:
        answer: `[R, n]`, at the answer's n keys, the newest row's own included; 0 at keys that the layer has lost.
        image: `[R]`, the sum over the image's keys.

    Args:
        layer: that is read.
    """

    tokens = 1

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self.answer, self.image = torch.empty(0), torch.empty(0)

    def see(self, call: AttentionCall) -> None:
        if call.layer != self._layer or call.prefill:
            return
        strongest = row_weights(call).amax(dim=1).double()
        shares = strongest / strongest.sum(dim=-1, keepdim=True)
        self.image = (shares * image_keys(call)).sum(dim=-1)
        count = call.key_map.length - call.key_map.prompt_length
        held = shares[:, : call.key_map.length][:, -count:]
        self.answer = torch.nn.functional.pad(held, (count - held.shape[1], 0))

    def found(self, lengths: Tensor) -> Mapping[Any, Any]:
        """Return nothing: each row is read as it comes."""
        return {}
