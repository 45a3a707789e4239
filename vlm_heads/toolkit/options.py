"""Options of methods: everything about an option in one place, its dataclass field.

    gain: float = option(2.0, at_least=0.0, neutral=1.0, help="factor on the outputs of the chosen heads")

The base of all methods checks the values. The command line, the page, the documentation and the laws read the facts.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from vlm_heads.errors import BadOption, brief, suggest
from vlm_heads.names import split_outside_quotes, unknown_option

Kind = Literal["number", "integer", "switch", "word", "layers", "list"]

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
LARGEST_INDEX = 99_999
_FACTS = "vlm_heads.option"
_NEEDS_QUOTES = frozenset(',"; \t\n\r\v\f')


class Form(Protocol):
    """A kind of value of its own, such as a list of heads: how it is read, written and checked.

    Attributes:
        kind: what help texts and forms call it.
    """

    kind: Kind

    def read(self, text: str, name: str) -> Any:
        """Return the value that a text of the option `name` states; raise `BadOption` where it states none."""
        ...

    def write(self, value: Any) -> str:
        """Return the text of a checked value; the inverse of `read`."""
        ...

    def checked(self, value: Any, name: str) -> Any:
        """Return a value as the option `name` keeps it; raise `BadOption` where it cannot."""
        ...


def require_number(name: str, value: object, *, at_least: float = -math.inf, at_most: float = math.inf) -> None:
    """Raise `BadOption` unless the value is a finite number in its range."""
    least, most = write_number(at_least), write_number(at_most)
    span = f"{least}..{most}" if at_most < math.inf else f"at least {least}"
    needed = "a finite number" + ("" if at_least == -math.inf else f", {span},")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not _finite(value) or not at_least <= value <= at_most:  # type: ignore[operator]
        raise BadOption(f"{name}={brief(value)}: {needed} is needed")


def require_word(name: str, value: object, words: Sequence[str]) -> None:
    """Raise `BadOption` unless the value is one of the words."""
    if not isinstance(value, str) or value not in words:
        raise BadOption(f"{name}={brief(value)}{suggest(str(value), words)}: one of {', '.join(words)} is needed")


@dataclass(frozen=True)
class Option:
    """One option of a method, for its check, its help text and its place in a form.

    Attributes:
        name: as it is written.
        kind: "number", "integer", "switch", "word", "layers" or "list".
        default: its value where nothing is said.
        words: what a word may be; a number may have some beside it, as "relative".
        at_least: least number, or None.
        at_most: largest number, or None.
        neutral: the value at which it changes nothing, or None.
        help: what it does, in a sentence without the range and the default.
        form: reads, writes and checks a value of a kind of its own; None for the ordinary kinds.
    """

    name: str
    kind: Kind
    default: Any
    words: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    neutral: Any = None
    help: str = ""
    form: Form | None = None

    def checked(self, value: Any) -> Any:
        """Return a value as the option keeps it: a number as float, a list as tuple.

        Raises:
            BadOption: if it is of another kind or out of its range; the message says what is needed.
        """
        if self.form is not None:
            return self.form.checked(value, self.name)
        if self.kind == "switch":
            if not isinstance(value, bool):
                raise BadOption(f"{self.name}={brief(value)}: True or False is needed")
            return value
        if self.kind == "word":
            return self._word(value)
        if isinstance(value, str) and value in self.words:
            return value
        if isinstance(value, str) and self.words:
            raise BadOption(f"{self.name}={brief(value)}: a number or the word {' or '.join(self.words)} is needed")
        return self._number(value)

    def read(self, text: str) -> Any:
        """Return the value that a text states; its range is checked where the method is made.

        Raises:
            BadOption: if it cannot be read.
        """
        if self.form is not None:
            return self.form.read(text, self.name)
        if text in self.words or self.kind == "word":
            return text
        readers: Mapping[str, Callable[[str], Any]] = {"number": float, "integer": int, "switch": _switch}
        try:
            return readers[self.kind](text)
        except ValueError:
            words = "".join(f" or {word}" for word in self.words)
            raise BadOption(f"{self.name}={brief(text, str)}: a {self.kind}{words} is needed") from None

    def write(self, value: Any) -> str:
        """Return the text of a checked value, as `read` takes it; every digit of a number is kept."""
        if self.form is not None:
            return self.form.write(value)
        return str(value).lower() if isinstance(value, bool) else write_number(value)

    def _word(self, value: Any) -> str:
        if self.words:
            require_word(self.name, value, self.words)
        elif not isinstance(value, str):
            raise BadOption(f"{self.name}={brief(value)}: a text is needed")
        return str(value)

    def _number(self, value: Any) -> float | int:
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        require_number(self.name, value, at_least=low, at_most=high)
        if self.kind == "integer":
            if int(value) != value:
                raise BadOption(f"{self.name}={brief(value)}: a whole number is needed")
            return int(value)
        return float(value)


def option(
    default: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: Sequence[str] | None = None,
    neutral: Any = None,
    help: str = "",  # the word that PEFT's and argparse's options use
    form: Form | None = None,
    kw_only: bool = False,
) -> Any:
    """Return a dataclass field that states everything about one option of a method.

    Args:
        default: its value where nothing is said.
        at_least: least number.
        at_most: largest number.
        choices: words to choose from; by default those of the field's `Literal`.
        neutral: the value at which the option changes nothing.
        help: what it does, in a sentence without the range and the default.
        form: how a value of a kind of its own is read, written and checked.
        kw_only: whether it is given by name alone and listed last, as an option that a base class brings.
    """
    facts = {"at_least": at_least, "at_most": at_most, "neutral": neutral, "help": help, "form": form}
    words = {} if choices is None else {"words": tuple(choices)}
    return field(default=default, metadata={_FACTS: facts | words}, kw_only=kw_only)


def options_of(kind: type) -> tuple[Option, ...]:
    """Return the options of a method, read from its dataclass fields."""
    return _options_of(kind)


@cache
def _options_of(kind: Any) -> tuple[Option, ...]:
    hints = get_type_hints(kind)
    found = []
    for one in sorted(fields(kind), key=lambda one: bool(one.kw_only)):
        facts = dict(one.metadata.get(_FACTS, {}))
        form: Form | None = facts.get("form")
        kind_of, words = _kind_of(hints[one.name]) if form is None else (form.kind, ())
        words = facts.pop("words", words)
        default = None if one.default is MISSING else one.default
        found.append(Option(one.name, kind_of, default, words, **facts))
    return tuple(found)


def parse_options(kind: type, text: str, name: str) -> Mapping[str, Any]:
    """Return constructor arguments from `key=value,key=value`; a value with a comma stands in double quotes.

    Raises:
        BadOption: if an option is unknown, given twice, or its value cannot be read.
    """
    known = {option.name: option for option in options_of(kind)}
    chosen: dict[str, Any] = {}
    for piece in filter(None, (part.strip() for part in split_outside_quotes(text, ","))):
        key, equals, value = (part.strip() for part in piece.partition("="))
        if key not in known:
            raise unknown_option(name, key, known)
        if not equals or not value:
            raise BadOption(f"option {key!r} of {name} has no value; write {key}={known[key].default}")
        if key in chosen:
            raise BadOption(f"option {key!r} of {name} is given twice")
        try:
            chosen[key] = known[key].read(_unquoted(value))
        except BadOption as wrong:
            raise BadOption(f"{name}: {wrong}") from None
    return chosen


def write_options(made: Any) -> str:
    """Return the options of a method that differ from their defaults, as `parse_options` reads them."""
    written = []
    for one in options_of(type(made)):
        value = getattr(made, one.name)
        if value != one.default:
            written.append(f"{one.name}={_quoted(one.write(value))}")
    return ",".join(written)


def write_number(value: Any) -> str:
    """Return a number as text, without losing a digit and without a plus sign."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value).replace("e+", "e")
    return str(value)


def read_index(text: str, name: str) -> int:
    """Return the number of a layer, a head or a channel.

    Raises:
        BadOption: if it is none, or larger than any model has; a list of so many would fill the memory.
    """
    digits = text.removeprefix("-")
    if not digits.isdecimal() or len(digits) > 18 or int(digits) > LARGEST_INDEX:
        raise BadOption(f"{name}={brief(text)}: a whole number, at most {LARGEST_INDEX}, is needed")
    return int(text)


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def _quoted(text: str) -> str:
    return json.dumps(text) if not text or _NEEDS_QUOTES & set(text) or text != text.strip() else text


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        raise BadOption(f"{brief(text, str)}: the closing quote is missing, or something follows it") from None


def _kind_of(hint: Any) -> tuple[Kind, tuple[str, ...]]:
    if get_origin(hint) is Literal:
        return "word", tuple(str(word) for word in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_kind_of(part) for part in get_args(hint) if part is not type(None)]
        words = tuple(word for _, some in parts for word in some)
        return next((kind for kind, _ in parts if kind != "word"), "word"), words
    return {bool: ("switch", ()), int: ("integer", ()), float: ("number", ())}.get(hint, ("word", ()))  # type: ignore[return-value]


def _switch(value: str) -> bool:
    if value.lower() in _YES:
        return True
    if value.lower() in _NO:
        return False
    raise ValueError(value)
