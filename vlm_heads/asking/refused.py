"""Ways to generate that cannot be checked: refused before the first forward, each with what to do instead."""

from __future__ import annotations

from typing import Any

from vlm_heads.errors import BadOption, UnsupportedGeneration
from vlm_heads.generate_call import GenerateCall

_ONE = "drafts one sequence for each prompt"
_DRAFT = "would count from each draft's beginning"
_PROMPT = "would take what is written so far for the prompt"
_SCORES = "drafts several times, so there are no scores of one generation"
# argument -> the values that are no wish for it, and why it cannot be had
_ARGUMENTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), _ONE),
    "num_beam_groups": ((None, 1), _ONE),
    "num_return_sequences": ((None, 1), _ONE),
    "penalty_alpha": ((None, 0, 0.0), _ONE),
    "dola_layers": ((None,), _ONE),
    "guidance_scale": ((None, 1, 1.0), "cannot take back what a second prompt has seen"),
    "custom_generate": ((None,), "drafts with the model's own generate"),
    "inputs_embeds": ((None,), "needs the prompt's token ids"),
    "past_key_values": ((None,), "cuts the cache back, and a conversation's is not its own"),
    "cache_implementation": ((None, "dynamic"), "cuts the cache back, and this kind cannot be cut"),
    "use_cache": ((None, True), "goes on from the cache"),
    "stop_strings": ((None,), "would not see a string that a taken-back word ends"),
    "max_time": ((None,), "would give each draft the whole time"),
    "min_new_tokens": ((None, 0), f"{_DRAFT}; say_more makes answers longer"),
    "min_length": ((None, 0), f"{_DRAFT}; say_more makes answers longer"),
    "exponential_decay_length_penalty": ((None,), _DRAFT),
    "begin_suppress_tokens": ((None,), _DRAFT),
    "encoder_repetition_penalty": ((None, 1, 1.0), _PROMPT),
    "encoder_no_repeat_ngram_size": ((None, 0), _PROMPT),
    "token_healing": ((None, False), _PROMPT),
    "output_scores": ((None, False), _SCORES),
    "output_logits": ((None, False), _SCORES),
    "output_attentions": ((None, False), _SCORES),
    "output_hidden_states": ((None, False), _SCORES),
}


def refuse(call: GenerateCall, name: str) -> None:
    """Raise where a call of `generate` cannot be checked.

    Args:
        call: as the caller made it.
        name: of the check.

    Raises:
        UnsupportedGeneration: naming the argument to leave out.
        BadOption: if the call has no token ids.
    """
    for argument, (unset, reason) in _ARGUMENTS.items():
        value = call.arguments.get(argument, getattr(call.config, argument, None))
        if not any(value is one or (type(value) is type(one) and value == one) for one in unset):
            shown = f"{argument}={value}" if isinstance(value, int | float | str) else argument
            raise UnsupportedGeneration(f"{name} {reason}: leave {shown} out")
    if "input_ids" not in call.inputs:
        raise BadOption(f"{name} needs input_ids: give generate() the processor's whole output")
    if call.arguments.get("streamer") is not None and call.inputs["input_ids"].shape[0] > 1:
        raise UnsupportedGeneration(f"{name} streams one answer: ask about one picture at a time")
