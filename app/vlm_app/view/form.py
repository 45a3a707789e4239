"""Between the page's form and a recipe: the chosen methods, and one value for every option of every method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from vlm_app.view.cards import cards
from vlm_app.view.recipe import word_of, written
from vlm_heads import known_contrasts, known_interventions
from vlm_heads.toolkit.options import Option, parse_options


class Key(NamedTuple):
    """Which option of which method a value of the form is for."""

    method: str
    option: str


def option_keys() -> list[Key]:
    """Return the key of every value of the form, in the order of the cards."""
    return list(_options())


def words_of(chosen: Collection[str], values: Mapping[Key, Any]) -> tuple[str, ...]:
    """Return the chosen methods as `--with` takes them, in the order of the cards.

    Args:
        chosen: names of methods.
        values: one for each of `option_keys()`.

    Raises:
        BadOption: if a value cannot be read.
    """
    given: dict[str, dict[str, Any]] = {}
    for key, option in _options().items():
        given.setdefault(key.method, {})[key.option] = _typed(option, values[key])
    return tuple(word_of(card.name, card.kind, given[card.name]) for card in cards() if card.name in chosen)


def values_of(words: Sequence[str]) -> tuple[list[str], dict[Key, Any]]:
    """Return the chosen methods and one value for each of `option_keys()`; the inverse of `words_of`.

    Raises:
        BadOption: if a word cannot be read.
    """
    kinds = known_interventions() | known_contrasts()
    given: dict[str, Mapping[str, Any]] = {}
    for word in words:
        name, _, options = word.partition(":")
        given[name.strip()] = parse_options(kinds[name.strip()], options, name)
    values = {
        key: _shown(option, given.get(key.method, {}).get(key.option, option.default))
        for key, option in _options().items()
    }
    return [card.name for card in cards() if card.name in given], values


@cache
def _options() -> Mapping[Key, Option]:
    return {Key(card.name, control.option.name): control.option for card in cards() for control in card.controls}


def _typed(option: Option, value: Any) -> Any:
    """Return a form's value as the option's type; an emptied field is the default."""
    if value is None or value == "":
        return option.default
    if option.kind == "number" and not isinstance(option.default, str) and value not in option.words:
        return float(value)
    if option.kind == "integer":
        return int(value)
    if option.kind == "switch":
        return bool(value)
    return str(value).strip()


def _shown(option: Option, value: Any) -> Any:
    return value if option.kind in ("number", "integer", "switch") else written(value)
