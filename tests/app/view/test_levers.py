"""The groups of the form: every method stands in exactly one, where its kind and its lever put it."""

from vlm_app.view.cards import cards
from vlm_app.view.levers import LEVERS

from vlm_heads import methods


def test_every_card_stands_in_one_group() -> None:
    shown = [card.name for lever in LEVERS for card in lever.cards]
    assert sorted(shown) == sorted(card.name for card in cards())


def test_a_group_holds_levers_that_there_are() -> None:
    held = [one for lever in LEVERS for one in lever.holds]
    assert len(set(held)) == len(held)
    assert set(held) <= methods.LEVERS.keys()


def test_methods_stand_where_their_lever_is() -> None:
    groups = {lever.name: {card.name for card in lever.cards} for lever in LEVERS}
    assert {"vhr", "route", "spin", "adhh"} <= groups["heads"]
    assert {"pai", "var", "farsight", "sparc"} <= groups["attention"]
    assert {"vista", "memvr"} == groups["layers"]
    assert {"dola", "deco", "flb", "only"} == groups["lens"]
    assert {"carve", "opera"} == groups["pipeline"]
    assert {lever.name for lever in LEVERS if lever.one} == {"contrast", "check", "pipeline"}
