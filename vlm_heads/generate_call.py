"""What a call of `generate` asks for: by position, by name, by a config given, and by the model's own."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from transformers import GenerationConfig, GenerationMixin

from vlm_heads.errors import BadOption, suggest
from vlm_heads.wrappers import unwrapped

_USUAL = 20  # new tokens where nothing is said, as transformers has it


@dataclass(frozen=True)
class GenerateCall:
    """The arguments of one call of `generate`.

    Attributes:
        arguments: every argument given, by its name.
        config: what decides how tokens are chosen. An argument comes before the config given, and that one before the
            model's own.
        inputs: those arguments that go to the model and do not say how to generate.
    """

    arguments: Mapping[str, Any]
    config: GenerationConfig
    inputs: Mapping[str, Any]

    @classmethod
    def of(cls, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> GenerateCall:
        """Return what `model.generate(*args, **kwargs)` asks for; nothing given is changed."""
        model = unwrapped(model)
        own = _parameters(model.generate)
        given = dict(zip(own, args, strict=False)) | dict(kwargs)
        base = given.get("generation_config")
        changes = {name: value for name, value in given.items() if name != "generation_config"}
        config, rest = _resolved(_who_generates(model), base, changes)
        accepted = inspect.signature(model.forward).parameters
        inputs = {
            name: value
            for name, value in rest.items()
            if value is not None
            and not hasattr(config, name)
            and (name in accepted or name not in _NOT_FOR_THE_MODEL.union(own))
        }
        if given.get("inputs") is not None:
            inputs["input_ids"] = given["inputs"]
        return cls(given, config, inputs)

    def limit(self, width: int) -> int:
        """Return how many tokens may be said after a prompt of so many columns."""
        if self.config.max_new_tokens is not None:
            return int(self.config.max_new_tokens)
        given = self.arguments.get("generation_config")
        stated = "max_length" in self.arguments or getattr(given, "max_length", None) is not None
        return max(1, int(self.config.max_length) - width) if stated and self.config.max_length else _USUAL


def effective_config(model: Any, arguments: Mapping[str, Any]) -> GenerationConfig:
    """Return what decides how tokens are chosen where `generate` is called with these keyword arguments."""
    return GenerateCall.of(model, (), arguments).config


def with_defaults(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `generate` with these added, each where neither they nor their config state it."""
    missing = {name: value for name, value in defaults.items() if name not in arguments}
    config = arguments.get("generation_config")
    if config is None:
        return {**missing, **arguments}
    changed = copy.deepcopy(config)
    for name, value in missing.items():
        if getattr(changed, name, None) is None:
            setattr(changed, name, value)
    return {**arguments, "generation_config": changed}


def check_arguments(model: Any, arguments: Mapping[str, Any]) -> None:
    """Raise `BadOption` where `generate` would not know a keyword argument, or could not use its value."""
    for name, value in arguments.items():
        kind, least = _NUMBERS.get(name, (None, 0))
        if kind is not None and value is not None:
            given = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
            if not given or (least and value < least):
                raise BadOption(
                    f"{name}={value!r}: {_NEEDED[kind]}{f' of at least {least}' if least else ''} is needed"
                )
    if "custom_generate" in arguments:  # which may take arguments of its own
        return
    known = _known_arguments(unwrapped(model))
    if unknown := [name for name in arguments if name not in known]:
        raise BadOption(f"generate() takes no argument {unknown[0]!r}{suggest(unknown[0], known)}")


_NEEDED = {Integral: "a whole number", Real: "a number", bool: "True or False"}
_NUMBERS: Mapping[str, tuple[type, int]] = {
    **dict.fromkeys(("max_new_tokens", "max_length", "num_beams", "num_return_sequences"), (Integral, 1)),
    **dict.fromkeys(("min_new_tokens", "min_length", "top_k", "no_repeat_ngram_size"), (Integral, 0)),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty", "length_penalty"), (Real, 0)),
    **dict.fromkeys(("do_sample", "use_cache"), (bool, 0)),
}


def _known_arguments(model: Any) -> set[str]:
    """Return the names of what `generate` takes of a model."""
    known = {*vars(GenerationConfig()), *_NOT_FOR_THE_MODEL, "trust_remote_code"}
    for one in (model, _who_generates(model)):
        known |= vars(one.generation_config).keys() if getattr(one, "generation_config", None) is not None else set()
        for method in ("generate", "forward", "prepare_inputs_for_generation"):
            known |= inspect.signature(getattr(one, method)).parameters.keys() if hasattr(one, method) else set()
    return known | set(inspect.signature(GenerationMixin.generate).parameters)


# Arguments of `generate` that it takes out of its keyword arguments by name.
_NOT_FOR_THE_MODEL = frozenset({"past_key_values", "tokenizer", "assistant_tokenizer", "generation_mode"})


def _parameters(generate: Callable[..., Any]) -> list[str]:
    """Return the names of what `generate` takes; those of transformers where it hands on whatever it is given."""
    found = inspect.signature(generate).parameters
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in found.values()):
        found = inspect.signature(GenerationMixin.generate).parameters
    return [name for name, one in found.items() if one.kind is not inspect.Parameter.VAR_KEYWORD and name != "self"]


def _who_generates(model: Any) -> Any:
    """Return the model whose own `generate` runs in the end: some families hand all to their language model's."""
    inner = getattr(model, "language_model", None)
    hands_on = getattr(type(model), "generate", None) is not GenerationMixin.generate
    return inner if hands_on and isinstance(inner, GenerationMixin) else model


def _resolved(
    model: Any, base: GenerationConfig | None, changes: dict[str, Any]
) -> tuple[GenerationConfig, dict[str, Any]]:
    """Return the effective config and the arguments that are not part of it."""
    resolve = getattr(model, "_prepare_generation_config", None)
    if resolve is not None:
        config, rest = resolve(base, **changes)
    else:
        config = copy.deepcopy(base or getattr(model, "generation_config", None) or GenerationConfig())
        rest = config.update(**changes)
    return config, rest
