"""What OPERA makes of attention inside an answer: a penalty for each candidate, and a place to go back to.

A column is an answer token as a key. Its product is that of `scale` times the weight that it is given, over its own row
and all rows after it. Where one column's product stays the largest, the answer hangs on that one token.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm_heads.toolkit.beam_search import Beams

_LARGEST = math.log(torch.finfo(torch.float64).max) - 1
_SHRUNK = 1e-7  # the program multiplies products by it
_EARLY = 10  # tokens for which the program looks at the image instead, and places that it does not go back to
_NO_CANDIDATE = -999.0  # a logit

Pair = tuple[int, int]  # a beam, and the token that is said on it


@dataclass(frozen=True)
class Offers:
    """What each beam could say next.

    Attributes:
        tokens: int64 `[R, C]`, the candidates.
        scores: float64 `[R, C]`, their logits less the penalty.
        places: int64 `[R, C]`, where the column product is largest with each of them.
    """

    tokens: Tensor
    scores: Tensor
    places: Tensor


def with_row(columns: Tensor, rows: Tensor, scale: float) -> Tensor:
    """Return the log of each column's product with one more row.

    Args:
        columns: float64 `[R, n]`, before it.
        rows: float64 `[R, ..., n + 1]`, the weights that the new row gives the answer's tokens, itself included.
        scale: factor on every weight.
    """
    before = torch.nn.functional.pad(columns, (0, 1))
    between = [1] * (rows.dim() - 2)
    return (scale * rows).log() + before.view(len(before), *between, -1)


def largest_column(columns: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return the largest column product `[...]`, and its place, of the last `window` columns of their logs `[..., n]`.

    A product that no float holds is the largest that one does.
    """
    lost = max(0, columns.shape[-1] - window)
    value, place = columns[..., lost:].max(dim=-1)
    return value.clamp_max(_LARGEST).exp(), place + lost


History = Sequence[tuple[Beams, Offers]]
"""Beams and their candidates after 0, 1, … tokens, the newest last."""


@dataclass
class OverTrust(ABC):
    """The rules for one answer; see `over_trust_penalty`.

    Attributes:
        scale: factor on every weight.
        threshold: how often one place must have been the largest.
        weight: factor on the penalty.
        window: how far is looked back, in tokens.
        rollbacks: how often one place is gone back to at most.
        returned: how often it was gone back.
    """

    scale: float
    threshold: int
    weight: float
    window: int
    rollbacks: int

    def __post_init__(self) -> None:
        self.returned = 0
        self._times: Counter[int] = Counter()
        self._barred: dict[int, set[Pair]] = {}  # by how many tokens are kept
        self._furthest = 0  # place that was gone back to

    def with_said(self, beams: Beams, row: Tensor) -> Beams:
        """Return beams with the column products, and the place, after their newest token's row, float64 `[R, n]`."""
        columns = with_row(beams.columns, row, self.scale)
        place = largest_column(columns, self.window)[1]
        return replace(beams, columns=columns, places=torch.cat([beams.places, place[:, None]], dim=1))

    def offers(self, beams: Beams, logits: Tensor, tokens: Tensor, rows: Tensor, image: Tensor) -> Offers:
        """Return the candidates with their penalty taken off.

        Args:
            beams: that they would go on from.
            logits: float64 `[R, V]`.
            tokens: int64 `[R, C]`.
            rows: float64 `[R, C, n + 1]`, each candidate's row over the answer's tokens and itself.
            image: float64 `[R, C]`, what the same rows give the image.
        """
        penalty, places = self._penalty(with_row(beams.columns, rows, self.scale), image)
        return Offers(tokens, logits.gather(-1, tokens) - self.weight * penalty, places)

    def return_to(self, history: History) -> int | None:
        """Return how many tokens to keep where the answer hangs on one of them, and bar what followed; else None."""
        place = self._hangs_on(history)
        if place is None:
            return None
        for kept in (place + 1, place):
            if self._times[kept] < self.rollbacks and self._can_return(history, kept):
                self._times[kept] += 1
                self._furthest = place
                self.returned += 1
                self._barred.setdefault(kept, set()).update(_followed(history, kept))
                self._forget(kept)
                return kept
        return None

    @abstractmethod
    def scored(self, logits: Tensor, offers: Offers) -> Tensor:
        """Return logits float64 `[R, V]` by which the next token is chosen, a candidate."""
        ...

    @abstractmethod
    def again(self, logits: Tensor, offers: Offers, kept: int) -> Tensor:
        """Return logits `[R, V]` where it was gone back to `kept` tokens, without what is barred there."""
        ...

    @abstractmethod
    def _penalty(self, columns: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return each candidate's penalty and place `[R, C]`, from the logs of its column products `[R, C, n + 1]`."""
        ...

    @abstractmethod
    def _hangs_on(self, history: History) -> int | None:
        """Return the place of the token that the answer hangs on, or None."""
        ...

    @abstractmethod
    def _can_return(self, history: History, kept: int) -> bool:
        """Return whether there is a beginning of so many tokens to go back to, and something else to say there."""
        ...

    @abstractmethod
    def _forget(self, kept: int) -> None:
        """Forget what was barred in the part of the answer that is given up."""
        ...


class AsPrinted(OverTrust):
    """The paper's rules, with our choices where it says nothing of several beams."""

    def scored(self, logits: Tensor, offers: Offers) -> Tensor:
        barred = torch.full_like(logits, -torch.inf)
        return barred.scatter(-1, offers.tokens, offers.scores)

    def again(self, logits: Tensor, offers: Offers, kept: int) -> Tensor:
        scored = self.scored(logits, offers)
        for beam, token in self._barred[kept]:
            scored[beam, token] = -torch.inf
        return scored

    def _penalty(self, columns: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        return largest_column(columns, self.window)

    def _hangs_on(self, history: History) -> int | None:
        beams = history[-1][0]
        places = beams.places[beams.alive, -self.window :].tolist()
        if not places[0]:
            return None
        modes = {_most_often(one) for one in places}
        place = min(modes)
        if len(modes) > 1 or place < self._furthest or any(one.count(place) < self.threshold for one in places):
            return None
        return place

    def _can_return(self, history: History, kept: int) -> bool:
        beams, offers = history[kept]
        alive = beams.alive.tolist()
        there = {(beam, token) for beam, some in enumerate(offers.tokens.tolist()) for token in some if alive[beam]}
        return bool(there - self._barred.get(kept, set()) - _followed(history, kept))

    def _forget(self, kept: int) -> None:
        self._barred = {place: some for place, some in self._barred.items() if place <= kept}


class AsReleased(OverTrust):
    """The program's rules."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._places: list[Tensor] = []  # of each step, by the place of a beam and not by what it said

    def scored(self, logits: Tensor, offers: Offers) -> Tensor:
        return torch.full_like(logits, _NO_CANDIDATE).scatter(-1, offers.tokens, offers.scores)

    def again(self, logits: Tensor, offers: Offers, kept: int) -> Tensor:
        scored, least = logits.clone(), logits.min(dim=-1).values
        for beam, token in self._barred[kept]:
            scored[beam, token] = least[beam]
        return scored

    def _penalty(self, columns: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        largest, places = (_SHRUNK * columns.clamp_max(_LARGEST).exp()).half().max(dim=-1)
        return (-image if columns.shape[-1] <= _EARLY else largest.double()), places

    def _hangs_on(self, history: History) -> int | None:
        step = len(history) - 1
        now = torch.tensor([_most_often(one) for one in history[-1][1].places.tolist()])
        self._places = [*self._places[:step], now]
        place = _most_often(now.tolist())
        often = (torch.stack(self._places) == place).sum(dim=0)
        return place if place >= _EARLY and bool((often > self.threshold).all()) else None

    def _can_return(self, history: History, kept: int) -> bool:
        return len(history) - kept <= self.window

    def _forget(self, kept: int) -> None:
        self._barred.pop(kept + 1, None)


def _followed(history: History, kept: int) -> set[Pair]:
    """Return what was said after `kept` tokens, by the beam that it was said on."""
    after = history[kept + 1][0]
    return set(zip(after.parents.tolist(), after.said[:, kept].tolist(), strict=True))


def _most_often(values: Sequence[int]) -> int:
    """Return what occurs most often, of several the smallest."""
    seen = Counter(values)
    return min(seen, key=lambda value: (-seen[value], value))
