"""Who acts on a layer, and who watches it."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_heads.attached.watcher import Watcher
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.receipt import LayerTally, Receipt


def acting_by_layer(
    interventions: tuple[Intervention, ...], anatomy: Anatomy, receipt: Receipt
) -> dict[int, list[tuple[int, Intervention, LayerTally]]]:
    """Return layer -> place, intervention and its tally there, in the order given; those in attention alone."""
    acting: dict[int, list[tuple[int, Intervention, LayerTally]]] = {}
    for index, one in enumerate(interventions):
        if not one.in_attention:
            continue
        for layer in sorted(one.layers_in(anatomy)):
            tally = receipt.interventions[index].tallies.setdefault(layer, LayerTally())
            acting.setdefault(layer, []).append((index, one, tally))
    return acting


def watching_by_layer(
    watchers: Sequence[Watcher], anatomy: Anatomy, first_memory: int
) -> dict[int, list[tuple[int, Watcher]]]:
    """Return layer -> place of its memory and watcher; places go on from the interventions'."""
    watching: dict[int, list[tuple[int, Watcher]]] = {}
    for index, one in enumerate(watchers, start=first_memory):
        for layer in sorted(one.layers_in(anatomy)):
            watching.setdefault(layer, []).append((index, one))
    return watching
