"""The model's own `generate` while an attach lasts: ways that cannot be followed are refused before the first forward.

An attach follows a generation that feeds the model a whole prompt first, and then one token a row. The refused ways
feed a prompt in pieces, tokens that are guessed ahead, or many prompts packed into one row. There the wrong row would
be taken for the one that predicts the first token, and nobody would notice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from vlm_heads.errors import UnsupportedGeneration

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


Change = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]


@contextmanager
def refusing(model: nn.Module, change: Change | None = None) -> Iterator[None]:
    """Let the model's own `generate` refuse these ways of generating while the context lasts.

    Other ways go through, unchanged or with the keyword arguments that `change` returns. Afterwards the model has the
    attributes it had before.

    Args:
        model: whose `generate` it is.
        change: takes a call's positional and keyword arguments, and returns the keyword arguments to use.
    """
    before = {name: vars(model)[name] for name in ("generate", *_CONTINUOUS_METHODS) if name in vars(model)}
    guarded = [name for name in ("generate", *_CONTINUOUS_METHODS) if callable(getattr(model, name, None))]
    for name in guarded:
        guard = _checked(model, getattr(model, name), change) if name == "generate" else _refused(name)
        vars(model)[name] = guard
    try:
        yield
    finally:
        for name in guarded:
            vars(model).pop(name, None)
        vars(model).update(before)


def _checked(model: Any, generate: Callable[..., Any], change: Change | None) -> Callable[..., Any]:
    @functools.wraps(generate)
    def checked(*args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
        for name, reason in _ARGUMENTS.items():
            if kwargs.get(name, getattr(config, name, None)):
                raise UnsupportedGeneration(f"{name} {reason}: leave it out inside attach")
        if kwargs.get("cache_implementation", getattr(config, "cache_implementation", None)) == "paged":
            raise UnsupportedGeneration(f"cache_implementation='paged' {_CONTINUOUS}: leave it out inside attach")
        return generate(*args, **(kwargs if change is None else change(args, kwargs)))

    return checked


def _refused(name: str) -> Callable[..., Any]:
    def refused(*_: Any, **__: Any) -> Any:
        raise UnsupportedGeneration(f"{name} {_CONTINUOUS}: use generate inside attach")

    return refused
