"""Beam search as data: all that is known after each token, so that a method can go back to any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Stopping = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Beams:
    """Several answers to one prompt after n tokens; nothing in it is ever written to.

    A beam whose score is minus infinity is dead: it keeps its place, and nothing that follows from it is chosen.

    Attributes:
        said: int64 `[R, n]`.
        scores: float64 `[R]`, the sum of log-probabilities, best first.
        parents: int64 `[R]`, the beam before the last token that each goes on from.
        columns: float64 `[R, n]`, the log of each answer token's column product; see `over_trust`.
        places: int64 `[R, n]`, where that product was largest when each token had been said.
        ended: at most R ended answers, best first, each with its score by length.
        over: whether no beam is to go on.
    """

    said: Tensor
    scores: Tensor
    parents: Tensor
    columns: Tensor
    places: Tensor
    ended: tuple[tuple[float, Tensor], ...] = ()
    over: bool = False

    @classmethod
    def begun(cls, rows: int, device: torch.device) -> Beams:
        """Return so many empty answers, of which the first alone is alive."""
        scores = torch.full((rows,), -torch.inf, dtype=torch.float64, device=device)
        scores[0] = 0.0
        empty = torch.empty(rows, 0, dtype=torch.int64, device=device)
        return cls(empty, scores, torch.arange(rows, device=device), empty.double(), empty)

    @property
    def length(self) -> int:
        """How many tokens each beam has said."""
        return int(self.said.shape[1])

    @property
    def alive(self) -> Tensor:
        """bool `[R]`."""
        return self.scores > -torch.inf

    def best(self) -> tuple[float, Tensor]:
        """Return the best ended answer with its score; call it when the search is over."""
        assert self.ended, "a search is over when an answer has ended"
        return self.ended[0]


@dataclass(frozen=True)
class Search:
    """The rules of transformers' own beam search for one prompt.

    Attributes:
        prompt: int64 `[R, T]`.
        stopping: whether each sequence ends, as `generate` decides it; the limit of tokens is among the reasons.
        ends: how many tokens end an answer.
        longest: tokens that an answer may have.
        length_penalty: exponent of the length that a score is divided by.
        early_stopping: as `generate` takes it.
    """

    prompt: Tensor
    stopping: Stopping
    ends: int
    longest: int
    length_penalty: float
    early_stopping: bool | str

    def after(self, beams: Beams, log_probabilities: Tensor) -> Beams:
        """Return the beams after one more token, without its column and place.

        Args:
            beams: before it.
            log_probabilities: float64 `[R, V]`, of each beam's next token; minus infinity where it is barred.
        """
        rows, vocabulary = log_probabilities.shape
        summed = (log_probabilities + beams.scores[:, None]).flatten()
        best, at = summed.topk(min((1 + max(1, self.ends)) * rows, summed.numel()))
        parents = at // vocabulary
        said = torch.cat([beams.said[parents], (at % vocabulary)[:, None]], dim=1)
        over = self.stopping(torch.cat([self.prompt[:1].expand(len(said), -1), said], dim=1), None)
        ended = self._ended(beams, best[:rows], said[:rows], over[:rows])
        going = best.masked_fill(over, -torch.inf).sort(descending=True, stable=True)
        kept, scores = going.indices[:rows], going.values[:rows]
        done = bool(over.all()) or self._decided(ended, float(scores[0]), said.shape[1], rows)
        return replace(
            beams, said=said[kept], scores=scores, parents=parents[kept], ended=ended, over=done,
            columns=beams.columns[parents[kept]], places=beams.places[parents[kept]],
        )  # fmt: skip

    def _ended(self, beams: Beams, scores: Tensor, said: Tensor, over: Tensor) -> tuple[tuple[float, Tensor], ...]:
        """Return the best ended answers, those of the best R continuations that end now among them."""
        by_length = (scores / said.shape[1] ** self.length_penalty).tolist()
        now = [
            (score, answer)
            for score, answer, ends in zip(by_length, said, over.tolist(), strict=True)
            if ends and score > -torch.inf
        ]
        return tuple(sorted((*beams.ended, *now), key=lambda one: -one[0])[: len(said)])

    def _decided(self, ended: tuple[tuple[float, Tensor], ...], best: float, length: int, rows: int) -> bool:
        """Whether no beam that goes on can come before the ended answers, as far as transformers looks."""
        if best == -torch.inf:
            return True
        if len(ended) < rows:
            return False
        far = self.early_stopping == "never" and self.length_penalty > 0
        reached = best / (self.longest if far else length) ** self.length_penalty
        return self.early_stopping is True or reached <= ended[-1][0]
