"""What a receipt says: the heads that each intervention acted on, and the attention that it moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Deed:
    """What one intervention did in a run.

    Attributes:
        name: of the intervention.
        layers: how many it acted on.
        heads: how many it chose; 0 where it chooses none.
        mass_moved: softmax mass over all heads and steps; None for a method that moves none.
        sink_share: the share of the sinks' mass that it handed on; None where that was not measured.
    """

    name: str
    layers: int
    heads: int = 0
    mass_moved: float | None = None
    sink_share: float | None = None


def deeds(receipt: Mapping[str, Any] | None, sink_shares: Mapping[str, float]) -> tuple[Deed, ...]:
    """Return what each intervention did.

    Args:
        receipt: as `Answer` carries it; None where nothing was attached.
        sink_shares: by intervention, the share of the sinks' mass that it handed on, where that was measured.
    """
    return tuple(
        Deed(
            name=one["name"],
            layers=len(one["layers"]),
            heads=sum(count > 0 for counts in one["heads"].values() for count in counts),
            mass_moved=one["mass_moved"],
            sink_share=sink_shares.get(one["name"]),
        )
        for one in (receipt or {}).get("interventions", ())
    )


def heads_acted_on(receipt: Mapping[str, Any] | None) -> frozenset[tuple[int, int]]:
    """Return the (layer, head) pairs that any intervention acted on."""
    return frozenset(
        (int(layer), head)
        for one in (receipt or {}).get("interventions", ())
        for layer, counts in one["heads"].items()
        for head, count in enumerate(counts)
        if count
    )
