"""Runs the first passes that methods ask for, inside each call of `generate` and before the caller's own generation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vlm_heads.attached.tracking import Tracker
from vlm_heads.errors import UnsupportedGeneration, UnsupportedModel
from vlm_heads.families import Anatomy
from vlm_heads.generate_call import GenerateCall
from vlm_heads.interventions.base import Intervention
from vlm_heads.receipt import Receipt
from vlm_heads.toolkit.first_pass import FirstPass

# what of a generation's config says how many tokens are said, and how they are chosen and returned
_PLAIN: Mapping[str, Any] = {
    "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "max_length": None, "min_length": 0,
    "min_new_tokens": None, "use_cache": True, "cache_implementation": None, "return_dict_in_generate": False,
    "output_scores": False, "output_logits": False, "output_attentions": False, "output_hidden_states": False,
    "temperature": None, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": None,
    "no_repeat_ngram_size": None, "sequence_bias": None, "bad_words_ids": None, "suppress_tokens": None,
    "stop_strings": None, "max_time": None, "penalty_alpha": None, "guidance_scale": None,
}  # fmt: skip


class FirstPasses:
    """The first passes of what is attached to one model.

    Args:
        anatomy: of the model.
        interventions: some of which may ask for one.
        tracker: follows the model's forwards.
        receipt: where it is noted that one was made.

    Raises:
        UnsupportedModel: if one is asked for, and the family generates past its own forward.
    """

    def __init__(
        self, anatomy: Anatomy, interventions: Sequence[Intervention], tracker: Tracker, receipt: Receipt
    ) -> None:
        self._anatomy, self._interventions = anatomy, interventions
        self._tracker, self._receipt = tracker, receipt
        asking = [one.name for one in interventions if one.first_pass(anatomy) is not None]
        self._asking = asking
        if asking and anatomy.quirks.blind_from_decoder:
            raise UnsupportedModel(
                f"{anatomy.model_type} generates past its own forward, so the first pass of {asking[0]} cannot be read"
            )

    @contextmanager
    def before(self, call: GenerateCall, generate: Callable[..., Any]) -> Iterator[None]:
        """Make the first passes of a call, and let its own generation know what they found while the context lasts.

        Args:
            call: as the caller made it.
            generate: the model's own, unguarded.

        Raises:
            UnsupportedGeneration: if the call is one that no first pass can be made for.
        """
        if not self._asking or not self._to_be_made(call):
            yield
            return
        passes = [one.first_pass(self._anatomy) for one in self._interventions]
        found = [{} if first is None else self._made(first, call, generate) for first in passes]
        with self._tracker.told(found):
            yield

    def _to_be_made(self, call: GenerateCall) -> bool:
        ids = call.inputs.get("input_ids")
        if ids is None:
            raise UnsupportedGeneration(f"{self._asking[0]} needs input_ids: give generate() the processor's output")
        seen = torch.isin(ids, torch.tensor(self._anatomy.vision_token_ids, device=ids.device))
        cache = call.arguments.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        again = bool(seen[:, :past].any())
        if again and bool(seen[:, past:].any()):
            raise UnsupportedGeneration(
                f"{self._asking[0]} makes a first pass when a conversation is first given an image, and here comes "
                "another: give the conversation so far without its cache"
            )
        if (call.config.num_beams or 1) > 1:
            raise UnsupportedGeneration(
                f"{self._asking[0]} keeps what it found about each row, and beams change places: leave num_beams out"
            )
        return not again and bool(seen.any())

    def _made(self, first: FirstPass, call: GenerateCall, generate: Callable[..., Any]) -> Mapping[Any, Any]:
        """Return what one first pass found."""
        inputs = {name: value for name, value in call.inputs.items() if name != "past_key_values"}
        if call.arguments.get("past_key_values") is not None:
            inputs["past_key_values"] = copy.deepcopy(call.arguments["past_key_values"])
        self._receipt.first_passes += 1
        return made(first, call, inputs, generate, self._tracker)


def made(
    first: FirstPass, call: GenerateCall, inputs: Mapping[str, Any], generate: Callable[..., Any], tracker: Tracker
) -> Mapping[Any, Any]:
    """Return what a first pass finds in a plain greedy answer.

    Args:
        first: reads it.
        call: of `generate`, whose end tokens it has.
        inputs: of the prompt that is answered.
        generate: the model's own, unguarded.
        tracker: follows the model's forwards.
    """
    with torch.no_grad(), tracker.calling(replace(call, inputs=inputs)), tracker.reading(first):
        said = generate(**inputs, generation_config=_plain(call.config, first.tokens))
    return first.found(_lengths(new_tokens(said, inputs["input_ids"]), call.config.eos_token_id))


def _plain(config: Any, tokens: int) -> Any:
    """Return the config of a greedy answer with so many tokens at most."""
    plain = copy.deepcopy(config)
    for name, value in _PLAIN.items():
        setattr(plain, name, value)
    plain.max_new_tokens = tokens
    return plain


def new_tokens(said: Tensor, prompt: Tensor) -> Tensor:
    """Return the tokens that were said, without the prompt where it comes back with them."""
    length = prompt.shape[1]
    return said[:, length:] if said.shape[1] >= length and torch.equal(said[:, :length], prompt) else said


def _lengths(said: Tensor, ends: Any) -> Tensor:
    """Return int64 `[B]`: how many tokens each row `[B, n]` said, its end token included."""
    ids = ends if isinstance(ends, list | tuple) else [] if ends is None else [ends]
    over = torch.isin(said, torch.tensor(list(ids), dtype=said.dtype, device=said.device))
    first = torch.where(over.any(dim=1), over.int().argmax(dim=1), said.shape[1] - 1)
    return first + 1
