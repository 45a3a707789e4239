"""A card for every method that acts by itself: what it does, where it comes from, and what can be turned."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from functools import cache

from vlm_heads import Method, known_checks, known_contrasts, known_interventions, known_lenses, known_pipelines
from vlm_heads.methods import Option

_FIRST = ("vhr", "route", "var", "pai")
# What papers print beside their defaults. The defaults themselves are found from the methods.
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
    """One option as a form shows it."""

    option: Option

    @property
    def help(self) -> str:
        """What the option does, and where it does nothing."""
        neutral = self.option.neutral
        return self.option.help + ("." if neutral is None else f"; {self.option.write(neutral)} changes nothing.")

    @property
    def slides(self) -> bool:
        """Whether it is a number with a slider; beside a number that can be a word there is none."""
        return self.option.kind == "number" and not self.option.words

    @property
    def low(self) -> float:
        """Where the slider begins."""
        return -self.high if self.option.at_least is None else self.option.at_least

    @property
    def high(self) -> float:
        """Where the slider ends; a method without an upper end of its own goes on beyond it."""
        return max(4.0, 2.0 * float(self.option.default)) if self.option.at_most is None else self.option.at_most

    @property
    def step(self) -> float:
        """From one value of the slider to the next."""
        return 0.5 if self.high > 10 else 0.05 if self.high > 1 else 0.01


@dataclass(frozen=True)
class Card:
    """One method as a form shows it.

    Attributes:
        kind: its class.
        controls: its options, in their order.
    """

    kind: type[Method]
    controls: tuple[Control, ...]

    @property
    def name(self) -> str:
        """The word on the command line."""
        return self.kind.name

    @property
    def label(self) -> str:
        """Its acronym."""
        return self.kind.label or self.kind.name

    @property
    def title(self) -> str:
        """What it does: what its file says after its name, or else the first line of its class."""
        file, own = (inspect.getdoc(said) or "" for said in (sys.modules[self.kind.__module__], self.kind))
        _, _, rest = file.partition("\n")[0].partition(": ")
        return rest or own.partition("\n")[0]

    @property
    def cited(self) -> str:
        """Its label and its paper."""
        return f"{self.label} ({self.kind.paper.cited})" if self.kind.paper else self.label


@cache
def cards() -> tuple[Card, ...]:
    """Return a card for every method that acts by itself, the best known first."""
    alone = [kind for kind in known_interventions().values() if not kind.needs_profile]
    beside = (known_lenses(), known_contrasts(), known_checks(), known_pipelines())
    kinds: list[type[Method]] = [*alone, *(kind for some in beside for kind in some.values())]
    found = [Card(kind, tuple(map(Control, kind.options()))) for kind in kinds]
    return tuple(sorted(found, key=lambda card: _FIRST.index(card.name) if card.name in _FIRST else len(_FIRST)))


def presets() -> dict[str, tuple[str, ...]]:
    """Return settings by what they are called: every method as it is by default, and what papers print beside."""
    return {card.cited: (card.name,) for card in cards()} | _BESIDE_DEFAULTS
