"""Methods by what they take hold of: heads, attention, a second stream, or the model's own words."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_app.method_facts import cost, kind_of
from vlm_app.view.cards import Card, cards

# SPIN ranks heads by itself; the others that choose heads say so with an option.
_RANKS_HEADS = ("spin",)


@dataclass(frozen=True)
class Lever:
    """One group of methods as the form shows it.

    Attributes:
        name: word for it.
        title: above the group.
        help: what its methods take hold of, and what that costs.
        one: whether at most one of them may be chosen.
    """

    name: str
    title: str
    help: str
    one: bool = False

    @property
    def cards(self) -> tuple[Card, ...]:
        """The methods of the group, in the order of the cards."""
        return tuple(card for card in cards() if lever_of(card) == self.name)


LEVERS = (
    Lever("heads", "Heads", "some heads count for more or for less; one pass a token"),
    Lever("attention", "Attention", "the picture's patches get more of the weight; one pass a token"),
    Lever(
        "contrast", "Second stream", "what another stream says is taken off or added; about twice the work", one=True
    ),
    Lever("check", "Check", "the model is asked about its own words; one pass a token, and the questions", one=True),
)


def lever_of(card: Card) -> str:
    """Return the name of a method's group."""
    kind = kind_of(card.kind)
    if kind != "intervention":
        return kind
    chooses = card.name in _RANKS_HEADS or any(control.option.name == "heads" for control in card.controls)
    return "heads" if chooses else "attention"


def cost_of(card: Card) -> str:
    """Return what a method costs, as a sentence."""
    return f"Costs {cost(card.kind)}."
