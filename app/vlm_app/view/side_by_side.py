"""Two answers that stream at once: the sides take turns, a token each, so that neither slows the other's clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

from vlm_heads import Answer
from vlm_heads.errors import VlmHeadsError

Stream = Callable[..., Generator[str, None, Answer]]

FRAME = 0.08  # seconds between two looks at the sides


@dataclass
class Side:
    """One answer as far as it has come.

    Attributes:
        text: said so far.
        tokens: generated so far.
        seconds: this side's own work, without the turns of the others.
        first: seconds to the first token; None before it.
        answer: the whole of it, once done.
        failure: why there is none, in one line.
        done: whether nothing more will come.
    """

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    first: float | None = None
    answer: Answer | None = None
    failure: str = ""
    done: bool = False

    @property
    def rate(self) -> float:
        """Tokens a second; 0 before there is any."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def race(streams: Sequence[Stream], seed: int, stop: threading.Event) -> Iterator[tuple[Side, ...]]:
    """Yield the sides again and again until all are done; the same objects each time, further along.

    Each side draws from its own random numbers, as if it ran alone after `torch.manual_seed(seed)`.

    Args:
        streams: called with `stopping_criteria` they give a stream, as `VLM.stream` does; each on a model of its own.
        seed: of every side.
        stop: ends all sides at their next token when set.
    """
    sides = tuple(Side() for _ in streams)
    turns = _Turns(len(sides))
    outside = torch.get_rng_state()
    try:
        with ThreadPoolExecutor(len(sides), "vlm-heads-side") as pool:
            try:
                work = [
                    pool.submit(_follow, stream, side, _Clock(turns, place, side, seed, stop))
                    for place, (stream, side) in enumerate(zip(streams, sides, strict=True))
                ]
                while not all(one.done() for one in work):
                    yield sides
                    wait(work, timeout=FRAME)
            except BaseException:
                stop.set()  # nobody listens any more
                raise
            for one in work:
                one.result()
        yield sides
    finally:
        torch.set_rng_state(outside)


def _follow(stream: Stream, side: Side, clock: _Clock) -> None:
    clock.start()
    try:
        pieces = stream(stopping_criteria=[clock])
        while True:
            try:
                side.text += next(pieces)
            except StopIteration as end:
                side.answer = end.value
                break
        side.text, side.tokens = side.answer.text, len(side.answer.token_ids)
    except VlmHeadsError as mistake:
        side.failure = " ".join(str(mistake).split())
    finally:
        clock.leave()
        side.done = True


class _Turns:
    """Whose turn it is: a ring of sides, those that are done taken out."""

    def __init__(self, sides: int) -> None:
        self._order = list(range(sides))
        self._changed = threading.Condition()

    def wait(self, side: int) -> None:
        """Wait until it is this side's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._order[0] == side)

    def pass_on(self) -> None:
        """End the turn."""
        with self._changed:
            self._order.append(self._order.pop(0))
            self._changed.notify_all()

    def leave(self, side: int) -> None:
        """Take no further turn."""
        with self._changed:
            self._order.remove(side)
            self._changed.notify_all()


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Called after every token: it counts, lets the other side have its turn, and ends a run that was stopped."""

    def __init__(self, turns: _Turns, place: int, side: Side, seed: int, stop: threading.Event) -> None:
        self._turns, self._place, self._side, self._stop = turns, place, side, stop
        self._random = torch.Generator().manual_seed(seed).get_state()
        self._since = 0.0

    def start(self) -> None:
        """Wait for the first turn, then begin to count."""
        self._turns.wait(self._place)
        torch.set_rng_state(self._random)
        self._since = time.perf_counter()

    def leave(self) -> None:
        """Stop counting and let the others have all turns."""
        self._side.seconds += time.perf_counter() - self._since
        self._turns.leave(self._place)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        now = time.perf_counter()
        side = self._side
        side.tokens += 1
        side.seconds += now - self._since
        if side.first is None:
            side.first = side.seconds
        self._random = torch.get_rng_state()
        self._turns.pass_on()
        self.start()
        return torch.full((input_ids.shape[0],), self._stop.is_set(), dtype=torch.bool, device=input_ids.device)
