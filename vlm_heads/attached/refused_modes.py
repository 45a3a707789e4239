"""The model's own `generate` while an attach lasts: ways that cannot be followed are refused before the first forward.

An attach follows a generation that feeds the model a whole prompt first, and then one token a row. The refused ways
feed a prompt in pieces, tokens that are guessed ahead, or many prompts packed into one row. There the wrong row would
be taken for the one that predicts the first token, and nobody would notice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from torch import nn

from vlm_heads.attached.turns import turn_of
from vlm_heads.errors import UnsupportedGeneration
from vlm_heads.generate_call import GenerateCall

# argument of generate() -> what it does that cannot be followed
_ARGUMENTS: Mapping[str, str] = {
    "prefill_chunk_size": "feeds the prompt in pieces, so its end and its image are not seen together",
    "assistant_model": "guesses tokens ahead and runs them with the prompt, so its end is not known",
    "prompt_lookup_num_tokens": "guesses tokens ahead and runs them with the prompt, so its end is not known",
    "assistant_early_exit": "guesses tokens ahead and runs them with the prompt, so its end is not known",
    "use_mtp": "guesses tokens ahead and runs them with the prompt, so its end is not known",
}
_CONTINUOUS = "packs many prompts into one row, and takes no image"
_CONTINUOUS_METHODS = ("generate_batch", "init_continuous_batching")


Change = Callable[[GenerateCall], Mapping[str, Any]]
Around = Callable[[GenerateCall, Callable[..., Any]], Any]
During = Callable[[GenerateCall, Callable[..., Any]], AbstractContextManager[object]]
Asked = Callable[[GenerateCall, Callable[..., Any], Callable[[GenerateCall], Any]], Any]


@contextmanager
def refusing(
    model: nn.Module,
    change: Change | None = None,
    during: During | None = None,
    around: Around | None = None,
    asked: Asked | None = None,
) -> Iterator[None]:
    """Let the model's own `generate` refuse these ways of generating while the context lasts.

    Other ways go through, unchanged or with the arguments that `change` returns. Afterwards the model has the
    attributes it had before. A call from another thread waits until an answer that has the model to itself is over; see
    `turns`.

    Args:
        model: whose `generate` it is.
        change: takes a call and returns the arguments to use, by name.
        during: makes a context for each call that goes through, with the `generate` that it may use before.
        around: runs in place of `generate`, with the call and the `generate` that it may use.
        asked: runs around all of these, with the call, a `generate` for first passes, and what answers a call so.
    """
    before = {name: vars(model)[name] for name in ("generate", *_CONTINUOUS_METHODS) if name in vars(model)}
    guarded = [name for name in ("generate", *_CONTINUOUS_METHODS) if callable(getattr(model, name, None))]
    for name in guarded:
        own = getattr(model, name)
        vars(model)[name] = (
            _checked(model, own, change, during, around, asked) if name == "generate" else _refused(name)
        )
    try:
        yield
    finally:
        for name in guarded:
            vars(model).pop(name, None)
        vars(model).update(before)


def _checked(
    model: Any,
    generate: Callable[..., Any],
    change: Change | None,
    during: During | None,
    around: Around | None,
    asked: Asked | None,
) -> Callable[..., Any]:
    def answered(call: GenerateCall, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        with nullcontext() if during is None else during(call, generate):
            if change is not None:
                call = replace(call, arguments=change(call))
            if around is not None:
                return around(call, generate)
            if change is None and kwargs is not None:
                return generate(*args, **kwargs)
            return generate(**call.arguments)

    @functools.wraps(generate)
    def checked(*args: Any, **kwargs: Any) -> Any:
        turn = turn_of(model)
        if turn.waited():  # what was attached for somebody else's answer is gone by now
            return model.generate(*args, **kwargs)
        call = GenerateCall.of(model, args, kwargs)
        _refuse(call)
        with turn.generating():
            return answered(call, args, kwargs) if asked is None else asked(call, generate, answered)

    return checked


def _refuse(call: GenerateCall) -> None:
    for name, reason in _ARGUMENTS.items():
        value = call.arguments.get(name, getattr(call.config, name, None))
        if value is not None and value is not False:  # transformers asks for no more either
            raise UnsupportedGeneration(f"{name} {reason}: {_left_out(call, name)}")
    if call.config.cache_implementation == "paged":
        raise UnsupportedGeneration(
            f"cache_implementation='paged' {_CONTINUOUS}: {_left_out(call, 'cache_implementation')}"
        )


def _left_out(call: GenerateCall, name: str) -> str:
    """Return what to do about a setting, which the model's own config may bring to every call."""
    own = call.arguments.get("generation_config")
    stated = name in call.arguments or getattr(own, name, None) is not None
    return "leave it out inside attach" if stated else f"the model's generation_config says so; give {name}=None"


def refuse_beams(call: GenerateCall, name: str) -> None:
    """Raise where a call has several beams and the method of this name cannot follow them."""
    beams = call.arguments.get("num_beams", getattr(call.config, "num_beams", None))
    if beams is not None and beams > 1:
        raise UnsupportedGeneration(
            f"num_beams={beams}: {name} remembers what each row attended to, and beams change places; leave out "
            "num_beams, or the method"
        )


def _refused(name: str) -> Callable[..., Any]:
    def refused(*_: Any, **__: Any) -> Any:
        raise UnsupportedGeneration(f"{name} {_CONTINUOUS}: use generate inside attach")

    return refused
