"""Between the page's form and a recipe: the chosen methods, and one value for every option of every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_app.view.cards import cards
from vlm_app.view.recipe import word_of, written
from vlm_heads import known_contrasts, known_interventions
from vlm_heads.toolkit.options import Option, parse_options


def option_keys() -> list[tuple[str, Option]]:
    """Return (method, option) for every value of the form, in the order of the cards."""
    return [(card.name, control.option) for card in cards() for control in card.controls]


def words_of(chosen: Sequence[str], values: Sequence[Any]) -> tuple[str, ...]:
    """Return the chosen methods as `--with` takes them.

    Args:
        chosen: names of methods; their order is that of the cards.
        values: one for each of `option_keys()`.

    Raises:
        BadOption: if a value cannot be read.
    """
    given: dict[str, dict[str, Any]] = {}
    for (name, option), value in zip(option_keys(), values, strict=True):
        given.setdefault(name, {})[option.name] = _typed(option, value)
    return tuple(word_of(card.name, card.kind, given[card.name]) for card in cards() if card.name in chosen)


def values_of(words: Sequence[str]) -> tuple[list[str], list[Any]]:
    """Return the chosen methods and one value for each of `option_keys()`; the inverse of `words_of`.

    Raises:
        BadOption: if a word cannot be read.
    """
    kinds = known_interventions() | known_contrasts()
    given: dict[str, dict[str, Any]] = {}
    for word in words:
        name, _, options = word.partition(":")
        given[name.strip()] = dict(parse_options(kinds[name.strip()], options, name))
    values = [_shown(option, given.get(name, {}).get(option.name, option.default)) for name, option in option_keys()]
    return [card.name for card in cards() if card.name in given], values


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
