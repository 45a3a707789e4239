"""A job: one request on its way through the model, and what comes back of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlm_app.serving.rows import Chance, Finish
from vlm_heads import Mitigation
from vlm_heads.models import Conversation


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        seed: of the draws; None for any.
        arguments: of `generate`.
    """

    seed: int | None
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Said:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Done:
    """The whole answer.

    Attributes:
        text: all of it, whether it was streamed or not.
        finish: why it ended.
        prompt_tokens, completion_tokens: counted.
        receipt: what the mitigation did, or None.
        chances: see `Row`.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    receipt: dict[str, Any] | None = None
    chances: Sequence[Sequence[Chance]] = ()


@dataclass(frozen=True)
class Failed:
    """There is no answer."""

    failure: Exception


Event = Said | Done | Failed


@dataclass(eq=False)
class Job:
    """One request.

    Attributes:
        picture: an encoded image.
        conversation: the turns.
        mitigation: what is done to the model.
        limit: tokens the answer may have.
        sampling: None for greedy.
        stops: strings that end the answer.
        streams: whether pieces are wanted.
        alternatives: how many tokens are noted beside each one said; None where no log-probability is wanted.
        biases: token ids, and what is added to their logits.
        deliver: takes what comes back; called from the model's thread.
        spoke: whether a piece was delivered.
    """

    picture: bytes
    conversation: Conversation
    mitigation: Mitigation
    limit: int
    sampling: Sampling | None = None
    stops: tuple[str, ...] = ()
    streams: bool = False
    alternatives: int | None = None
    biases: tuple[tuple[int, float], ...] = ()
    deliver: Callable[[Event], None] = lambda event: None
    spoke: bool = field(init=False, default=False)
    _left: threading.Event = field(init=False, default_factory=threading.Event)

    def say(self, piece: str) -> None:
        """Deliver a piece."""
        self.spoke = True
        self.deliver(Said(piece))

    def leave(self) -> None:
        """Say that nobody listens any more: what is generated for it ends at the next token."""
        self._left.set()

    def left(self) -> bool:
        """Whether nobody listens any more."""
        return self._left.is_set()

    @property
    def alone(self) -> bool:
        """Whether it is answered by itself: it draws from the one generator, or a check streams it."""
        return self.sampling is not None or (self.streams and self.mitigation.check is not None)

    def fits(self, other: Job) -> bool:
        """Whether both can be answered in one batch: greedily, with the same done to the model."""
        if self.alone or other.alone or self.biases != other.biases:
            return False
        same = (
            self.mitigation.profile is other.mitigation.profile and self.mitigation.words() == other.mitigation.words()
        )
        return same and (self.mitigation.check is None or self.limit == other.limit)
