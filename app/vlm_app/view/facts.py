"""What is shown of a run, as plain values. `html` and `words` write them down; nothing reads them back from text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlm_app.view.asked import AskedBack
from vlm_app.view.grid import Grid
from vlm_app.view.marks import Named
from vlm_app.view.receipts import Deed
from vlm_app.view.side_by_side import Side
from vlm_heads import TokenGrounding


@dataclass(frozen=True)
class Column:
    """One answer as it is shown.

    Attributes:
        title: what was attached.
        side: the answer as far as it has come.
        named: the objects it names.
        changed: spans of characters that the other answer has not.
        deeds: what the interventions did, one each.
        checked: whether anybody knows what the picture shows.
        asked: what the model asked itself about its words, so far.
    """

    title: str
    side: Side
    named: Sequence[Named] = ()
    changed: Sequence[tuple[int, int]] = ()
    deeds: Sequence[Deed] = ()
    checked: bool = True
    asked: Sequence[AskedBack] = ()


@dataclass(frozen=True)
class Strip:
    """The tokens of one answer.

    Attributes:
        side: "plain" or "mitigated".
        tokens: with T-VHD.
        named: the objects that the answer names.
        chosen: the token that is looked at; None where it is one of the other answer.
        used: how much of the attention each token gave to the patch that is looked at; None where none is.
        most: of any token of any answer, which the darkest stands for.
    """

    side: str
    tokens: Sequence[TokenGrounding]
    named: Sequence[Named] = ()
    chosen: int | None = None
    used: Sequence[float] | None = None
    most: float = 1.0

    @cached_property
    def spoken(self) -> list[tuple[int, TokenGrounding]]:
        """The tokens that can be seen, each with its place among all tokens."""
        return [(place, one) for place, one in enumerate(self.tokens) if one.text.strip()]

    def level(self, place: int) -> float:
        """Return how dark a token is, 0..1: by its use of the patch, or by its T-VHD among the answer's."""
        if self.used is not None:
            return self.used[place] / max(self.most, 1e-9)
        token = self.tokens[place]
        low, high = self._range
        return (token.t_vhd - low) / max(high - low, 1e-9)

    def absent(self, token: TokenGrounding) -> bool:
        """Whether a token belongs to an object that is not in the picture."""
        return any(one.shown is False and one.start < token.end and token.start < one.end for one in self.named)

    @cached_property
    def _range(self) -> tuple[float, float]:
        scores = [one.t_vhd for _, one in self.spoken]
        return min(scores, default=0.0), max(scores, default=1.0)


@dataclass(frozen=True)
class HeadMap:
    """How much every head looks at the image.

    Attributes:
        scores: VHD `[L, Hq]`.
        acted: (layer, head) pairs that an intervention acted on.
        chosen: the head that is looked at; None for all.
    """

    scores: NDArray[np.float32]
    acted: frozenset[tuple[int, int]] = frozenset()
    chosen: tuple[int, int] | None = None


@dataclass(frozen=True)
class LookedAt:
    """The token and the heads that are looked at.

    Attributes:
        side: the answer that the token belongs to.
        token: its place in the answer.
        word: its text; empty where there is no answer.
        head: (layer, head); None for all heads, each counted by its VHD.
    """

    side: str
    token: int
    word: str
    head: tuple[int, int] | None = None


@dataclass(frozen=True)
class Patches:
    """What a token took from each image position.

    Attributes:
        looked_at: which token and which heads.
        picture: upright.
        grid: where the positions lie.
        before: `[N]`, without the interventions.
        after: `[N]`, with them; None where there are none.
        sinks: `[N]`, in how many layers each position is a sink; None where the model has no sinks.
        patch: the position whose use by all words is looked at; None where none is.
        channels: in which the model's sinks explode; empty where it has no sinks.
    """

    looked_at: LookedAt
    picture: Image.Image
    grid: Grid
    before: NDArray[np.float64]
    after: NDArray[np.float64] | None = None
    sinks: NDArray[np.int64] | None = None
    channels: tuple[int, ...] = ()
    patch: int | None = None

    @property
    def maps(self) -> list[tuple[str, NDArray[np.float64]]]:
        """The weights by title, those without interventions first."""
        return [("Plain", self.before)] + ([] if self.after is None else [("Mitigated", self.after)])

    @property
    def top(self) -> float:
        """The largest weight of all, above 0; what is compared has one scale."""
        return max(1e-9, *(float(weights.max()) for _, weights in self.maps))


@dataclass(frozen=True)
class Undrawn:
    """Why nothing is drawn on the picture."""

    reason: str
