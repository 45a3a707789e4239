"""Between the page's form and a recipe: the chosen methods, and one value for every option of every method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from vlm_app.view.cards import cards
from vlm_heads import Method, parse_mitigation
from vlm_heads.errors import BadOption
from vlm_heads.methods import Option


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
        BadOption: if a value of a chosen method cannot be read or is out of its range.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in chosen}
    for key, option in _options().items():
        if key.method in chosen:
            given[key.method][key.option] = _typed(option, values[key])
    return tuple(card.kind(**given[card.name]).word() for card in cards() if card.name in chosen)


def values_of(words: Sequence[str]) -> tuple[list[str], dict[Key, Any]]:
    """Return the chosen methods and one value for each of `option_keys()`; the inverse of `words_of`.

    Raises:
        BadOption: if a word cannot be read, or a method is named that the form cannot hold or holds only once.
    """
    given: dict[str, Method] = {}
    for one in parse_mitigation(words).methods():
        if one.name not in {card.name for card in cards()}:
            raise BadOption(f"{one.name} acts from a head profile, which this page does not take; take it out")
        if one.name in given:
            raise BadOption(f"{one.name} is named twice, and this page holds each method once; take one out")
        given[one.name] = one
    values = {
        key: _shown(option, getattr(given.get(key.method), key.option, option.default))
        for key, option in _options().items()
    }
    return [card.name for card in cards() if card.name in given], values


@cache
def _options() -> Mapping[Key, Option]:
    return {Key(card.name, control.option.name): control.option for card in cards() for control in card.controls}


def _typed(option: Option, value: Any) -> Any:
    """Return a form's value as the option's; an emptied field is the default."""
    text = value.strip() if isinstance(value, str) else value
    if text is None or text == "":
        return option.default
    return option.read(text) if isinstance(text, str) else text


def _shown(option: Option, value: Any) -> Any:
    """Return an option's value as the form holds it: a number or a switch as it is, what is typed as it is written."""
    return value if isinstance(value, bool | int | float) and not option.words else option.write(value)
