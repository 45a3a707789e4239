"""A card for every intervention and contrast: what it does and what can be turned, from its dataclass and docstring."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from vlm_heads import known_contrasts, known_interventions
from vlm_heads.errors import BadOption
from vlm_heads.toolkit.options import Option, options_of

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
_PAPER = re.compile(r"\(([^()]*\d{4}[^()]*)\)")
_FIRST = ("vhr", "route", "var", "pai")
_ACRONYMS = {"route": "RouteGain", "devils": "Devils", "vaf": "ClearSight", "pai-contrast": "PAI, 2nd stream"}
# What papers print beside their defaults. The defaults themselves are found from the code.
_BESIDE_DEFAULTS: dict[str, tuple[str, ...]] = {
    "VAR, in general": ("var:max_sink_share=0.2",),
    "VAR, vision-centric tasks": ("var:max_sink_share=0.1",),
    "PAI, both halves": ("pai", "pai-contrast"),
    "PAI, the authors' program": ("pai:strength=0.2", "pai-contrast"),
    "PAINT, as printed": ("paint:local_share=0.25",),
    "RouteGain on all heads": ("route:image=1.5,heads=all",),
    "VHR and PAI together": ("vhr", "pai"),
}


@dataclass(frozen=True)
class Control:
    """One option as a form shows it.

    Attributes:
        option: name, kind, default and words.
        help: what the docstring says about it.
        low, high, step: of a number's slider; `high` is where the slider ends, not where the method does.
    """

    option: Option
    help: str
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01

    @property
    def slides(self) -> bool:
        """Whether it is a number with a slider."""
        return self.option.kind == "number" and not isinstance(self.option.default, str)


@dataclass(frozen=True)
class Card:
    """One method as a form shows it.

    Attributes:
        name: the word on the command line.
        kind: its class.
        label: its acronym.
        title: what it is, and the paper.
        summary: what it computes.
        controls: its options, in the order of the fields.
    """

    name: str
    kind: type[Any]
    label: str
    title: str
    summary: str
    controls: tuple[Control, ...]


@cache
def cards() -> tuple[Card, ...]:
    """Return a card for every intervention and every contrast that acts by itself, the best known first."""
    kinds = {name: kind for name, kind in known_interventions().items() if not kind.needs_profile}
    found = [_card(name, kind) for name, kind in [*kinds.items(), *known_contrasts().items()]]
    return tuple(sorted(found, key=lambda card: _FIRST.index(card.name) if card.name in _FIRST else len(_FIRST)))


def presets() -> dict[str, tuple[str, ...]]:
    """Return settings by what they are called: every method as it is by default, and what papers print beside."""
    defaults = {card.label + _paper(card): (card.name,) for card in cards()}
    return defaults | _BESIDE_DEFAULTS


def _card(name: str, kind: type[Any]) -> Card:
    text = inspect.getdoc(kind) or ""
    first = " ".join(text.split("\n\n")[0].split())
    own_file = name in known_interventions()  # an intervention's file says what it is; contrasts share one
    said = (inspect.getdoc(sys.modules[kind.__module__]) or "").partition("\n")[0] if own_file else first
    head, _, rest = said.partition(":")
    label = _ACRONYMS.get(name) or _PAPER.sub("", head).partition(",")[0].strip()
    paper = _PAPER.search(said)
    title = rest.strip() if own_file else f"a second stream{f' ({paper[1]})' if paper else ''}"
    helps = {found[1]: " ".join(found[2].split()) for found in _ATTRIBUTE.finditer(text.partition("Attributes:")[2])}
    controls = tuple(_control(kind, option, helps.get(option.name, "")) for option in options_of(kind))
    return Card(name, kind, label, title, first.partition(": ")[2] or first, controls)


def _control(kind: type[Any], option: Option, text: str) -> Control:
    if option.kind != "number" or isinstance(option.default, str):
        return Control(option, text)
    default = float(option.default)
    high = 1.0 if not _takes(kind, option.name, 1.0 + 1e-3) else max(4.0, 2.0 * default)
    low = next((floor for floor in (-high, 0.0, 1.0) if _takes(kind, option.name, floor)), 0.0)
    return Control(option, text, low, high, step=0.5 if high > 10 else 0.05 if high > 1 else 0.01)


def _takes(kind: type[Any], name: str, value: float) -> bool:
    """Whether an option may have a value; the classes check their own ranges and say nothing else about them."""
    try:
        kind(**{name: value})
    except BadOption:
        return False
    return True


def _paper(card: Card) -> str:
    found = _PAPER.search(card.title)
    return f" ({found[1]})" if found else ""
