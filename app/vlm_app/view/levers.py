"""Methods by what they take hold of, in the few groups of the form."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_app.method_facts import cost, kind_of
from vlm_app.view.cards import Card, cards


@dataclass(frozen=True)
class Lever:
    """One group of methods as the form shows it.

    Attributes:
        name: word for it.
        title: above the group.
        help: what its methods take hold of, and what that costs.
        holds: the levers of its interventions, keys of `vlm_heads.methods.LEVERS`.
        one: whether at most one of them may be chosen.
    """

    name: str
    title: str
    help: str
    holds: tuple[str, ...] = ()
    one: bool = False

    @property
    def cards(self) -> tuple[Card, ...]:
        """The methods of the group, in the order of the cards."""
        return tuple(card for card in cards() if lever_of(card) == self.name)


LEVERS = (
    Lever("heads", "Heads", "some heads count for more or for less; one pass a token", ("head gain", "class gain")),
    Lever(
        "attention",
        "Attention",
        "the picture's patches get more of the weight; one pass a token",
        ("logits", "key weight", "redistribution", "value gain", "attention pattern"),
    ),
    Lever(
        "layers",
        "Between layers",
        "what runs between the layers is turned, or given the picture again; one pass a token",
        ("residual", "feed-forward"),
    ),
    Lever("lens", "Earlier layers and steps", "what they would say is mixed into the next word; one pass a token"),
    Lever(
        "contrast", "Second stream", "what another stream says is taken off or added; about twice the work", one=True
    ),
    Lever("check", "Check", "the model is asked about its own words; one pass a token, and the questions", one=True),
    Lever(
        "pipeline",
        "In place of an answer",
        "the model answers first and is asked otherwise, or searches in its own way; several passes",
        one=True,
    ),
)
_REST = "attention"  # where an intervention stands that names no lever of ours


def lever_of(card: Card) -> str:
    """Return the name of a method's group: its kind, or of an intervention the group that holds its lever."""
    kind = kind_of(card.kind)
    if kind != "intervention":
        return kind
    return next((lever.name for lever in LEVERS if card.kind.lever in lever.holds), _REST)


def cost_of(card: Card) -> str:
    """Return what a method costs, as a sentence."""
    return f"Costs {cost(card.kind)}."
