"""Options of interventions: checked where they are made, and read from words as `gain=1.5,layers=paper`."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vlm_heads.errors import BadOption, suggest
from vlm_heads.toolkit.layer_sets import Layers

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_RUN = re.compile(r"(-?\d+)(?:-(\d+))?")


def require_number(name: str, value: object, *, at_least: float = -math.inf, at_most: float = math.inf) -> None:
    """Raise `BadOption` unless the value is a finite number in its range."""
    span = f"{at_least:g}..{at_most:g}" if at_most < math.inf else f"at least {at_least:g}"
    needed = "a finite number" + ("" if at_least == -math.inf else f", {span},")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(float(value)) or not at_least <= float(value) <= at_most:  # type: ignore[arg-type]
        raise BadOption(f"{name}={value!r}: {needed} is needed")


def require_word(name: str, value: object, words: Sequence[str]) -> None:
    """Raise `BadOption` unless the value is one of the words."""
    if not isinstance(value, str) or value not in words:
        raise BadOption(f"{name}={value!r}{suggest(str(value), words)}: one of {', '.join(words)} is needed")


@dataclass(frozen=True)
class Option:
    """One option of an intervention, for help texts and forms.

    Attributes:
        name: as it is written.
        kind: "number", "integer", "switch", "word" or "layers".
        default: its value where nothing is said.
        words: what a word may be; a number may have some beside it, as "relative".
    """

    name: str
    kind: Literal["number", "integer", "switch", "word", "layers"]
    default: Any
    words: tuple[str, ...] = ()


def options_of(kind: type) -> tuple[Option, ...]:
    """Return the options of an intervention, read from its dataclass fields."""
    hints = get_type_hints(kind)
    found = []
    for one in fields(kind):
        default = None if one.default is MISSING else one.default
        word, words = _kind_of(hints[one.name])
        found.append(Option(one.name, word, default, words))
    return tuple(found)


def parse_options(kind: type, text: str, name: str) -> Mapping[str, Any]:
    """Return constructor arguments from `key=value,key=value`.

    Raises:
        BadOption: if an option is unknown, given twice, or its value cannot be read.
    """
    known = {option.name: option for option in options_of(kind)}
    chosen: dict[str, Any] = {}
    for piece in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in piece.partition("="))
        if key not in known:
            listed = ", ".join(known)
            raise BadOption(f"{name} has no option {key!r}{suggest(key, known)}; it has {listed}")
        if not equals or not value:
            raise BadOption(f"option {key!r} of {name} has no value; write {key}={known[key].default}")
        if key in chosen:
            raise BadOption(f"option {key!r} of {name} is given twice")
        chosen[key] = _read(known[key], value, name)
    return chosen


def _kind_of(hint: Any) -> tuple[Literal["number", "integer", "switch", "word", "layers"], tuple[str, ...]]:
    if hint == Layers:
        return "layers", ()
    if get_origin(hint) is Literal:
        return "word", tuple(str(word) for word in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_kind_of(part) for part in get_args(hint) if part is not type(None)]
        words = tuple(word for _, some in parts for word in some)
        return next((kind for kind, _ in parts if kind != "word"), "word"), words
    return {bool: ("switch", ()), int: ("integer", ()), float: ("number", ())}.get(hint, ("word", ()))  # type: ignore[return-value]


def _read(option: Option, value: str, name: str) -> Any:
    if value in option.words:
        return value
    try:
        if option.kind == "number":
            return float(value)
        if option.kind == "integer":
            return int(value)
        if option.kind == "switch":
            return _switch(value)
    except ValueError:
        words = "".join(f" or {word}" for word in option.words)
        raise BadOption(f"{option.name}={value} of {name}: a {option.kind}{words} is needed") from None
    if option.kind == "layers":
        return _layers(value)
    if option.words:
        require_word(option.name, value, option.words)
    return value


def _switch(value: str) -> bool:
    if value.lower() in _YES:
        return True
    if value.lower() in _NO:
        return False
    raise ValueError(value)


def _layers(value: str) -> str | tuple[int, ...]:
    """Read a layer set's name, or indices and runs joined by `+`: `1+18-31`."""
    if not any(character.isdigit() for character in value):
        return value
    chosen: list[int] = []
    for piece in value.split("+"):
        match = _RUN.fullmatch(piece.strip())
        if match is None:
            raise BadOption(f"layers={value}: a name, or indices and runs joined by +, as in 1+18-31, are needed")
        first = int(match[1])
        chosen.extend(range(first, int(match[2] or first) + 1) if match[2] else [first])
    return tuple(chosen)
