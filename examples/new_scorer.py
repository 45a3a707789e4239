"""A scorer of one's own: how far a head looks beyond its own position, where the prompt ends.

    python examples/new_scorer.py

As a package, name the class in the entry-point group `vlm_heads.scorers`; then `score --scorer reach` finds it too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import vlm_heads
from vlm_heads.methods import AttentionCall, Watcher, row_weights
from vlm_heads.models import planted_image
from vlm_heads.scorers import Example, Found, Scorer, batch_inputs, empty, watched_forward


class Reach(Watcher):
    """Keeps the weight of each prompt's last row on all keys but its own, `[B, Hq]` by layer."""

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}

    def see(self, call: AttentionCall) -> None:
        self.seen[call.layer] = 1 - row_weights(call)[:, :, -1]


@dataclass(frozen=True)
class ReachScorer(Scorer):
    """Formula: s[l, i] = 1 - w[l, i, last, last]."""

    name: ClassVar[str] = "reach"
    unit: ClassVar[str] = "share of the attention"

    def look(self, model: Any, processor: Any, anatomy: Any, examples: Sequence[Example]) -> Iterator[Found]:
        watcher, tables = Reach(), empty(anatomy, len(examples))
        watched_forward(model, batch_inputs(model, processor, examples), watcher)
        for layer, reach in watcher.seen.items():
            tables[:, layer] = reach
        yield from (Found(table[None]) for table in tables)


if __name__ == "__main__":
    vlm = vlm_heads.VLM.from_pretrained("planted")
    profile = ReachScorer().score(vlm.model, vlm.processor, [planted_image("car"), planted_image("bird")])
    print(profile.card["scorer"], *(f"{layer}.{head}: {score:.2f}" for layer, head, score in profile.top(3)))
