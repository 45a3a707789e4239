"""The rows of one generation: each ends for itself, at its own limit, its own stop string, or when nobody listens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from vlm_app.serving.growing import Growing

Finish = Literal["stop", "length"]
Chance = tuple[int, float]  # a token id and its log-probability


@dataclass(eq=False)
class Row:
    """One answer while it is generated.

    Attributes:
        growing: its text.
        limit: tokens it may have.
        left: whether nobody listens any more.
        say: called with each piece; None where the answer is wanted as a whole.
        stops: whether it has stop strings.
        alternatives: how many tokens are noted beside each one said; None where no log-probability is wanted.
        ids: of the answer so far, an end token included.
        finish: why it ended; None while it goes on.
        chances: of each token said before the end token, the token itself first and then the most probable ones.
    """

    growing: Growing
    limit: int
    left: Callable[[], bool] = lambda: False
    say: Callable[[str], None] | None = None
    stops: bool = False
    alternatives: int | None = None
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    chances: list[list[Chance]] = field(default_factory=list)

    def hear(self, token: int, ends: Collection[int], chances: Tensor | None) -> bool:
        """Take the next token; return whether the row is over.

        Args:
            token: its id; one that follows the row's end is passed over.
            ends: ids that end an answer.
            chances: log-probabilities `[V]` of this step, where any row wants them.
        """
        if self.finish is None:
            self.ids.append(token)
            if chances is not None and self.alternatives is not None and token not in ends:
                self.chances.append(_noted(chances, token, self.alternatives))
            over = token in ends or len(self.ids) >= self.limit
            if over or self.stops or self.say is not None:
                piece = self.growing.piece(self.ids, over=over)
                if self.say is not None and piece:
                    self.say(piece)
            if token in ends or self.growing.stopped:
                self.finish = "stop"
            elif over:
                self.finish = "length"
        return self.finish is not None or self.left()


def _noted(chances: Tensor, token: int, count: int) -> list[Chance]:
    best = chances.topk(count) if count else None
    others = [] if best is None else zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(token, float(chances[token])), *((int(one), float(chance)) for one, chance in others)]


class Rows(StoppingCriteria):  # type: ignore[misc]
    """Hands each row its tokens, and ends the rows that are over; the others go on.

    Args:
        rows: in the order of the batch.
        ends: ids that end an answer.
    """

    def __init__(self, rows: Sequence[Row], ends: Collection[int]) -> None:
        self._rows, self._ends = rows, ends
        self.chances = Chances() if any(row.alternatives is not None for row in rows) else None

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return bool `[B]`: the rows that are over."""
        tokens: list[int] = input_ids[:, -1].tolist()
        noted = None if self.chances is None else self.chances.last
        over = [
            row.hear(token, self._ends, None if noted is None else noted[place])
            for place, (row, token) in enumerate(zip(self._rows, tokens, strict=True))
        ]
        return torch.tensor(over, device=input_ids.device)


class Chances(LogitsProcessor):  # type: ignore[misc]
    """Keeps the log-probabilities of the last step; it changes nothing."""

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits `[B, V]` as they are."""
        self.last = scores.log_softmax(dim=-1)
        return scores


class AllLeft(StoppingCriteria):  # type: ignore[misc]
    """Ends a generation that is read only as a whole, once nobody listens to any of its rows."""

    def __init__(self, left: Sequence[Callable[[], bool]]) -> None:
        self._left = left

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return bool `[B]`."""
        over = all(left() for left in self._left)
        return torch.full((input_ids.shape[0],), over, dtype=torch.bool, device=input_ids.device)
