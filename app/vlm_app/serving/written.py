"""From what a job delivers to what a client reads: one completion, or a stream of its pieces."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from vlm_app.serving.job import Done, Event, Failed, Job, Said
from vlm_app.serving.refusals import Refusal
from vlm_app.serving.rows import Chance
from vlm_app.serving.wire import (
    Alternative,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    Delta,
    Logprobs,
    PieceChoice,
    Refused,
    SaidMessage,
    SaidToken,
    Usage,
)

_LEAST = -9999.0  # JSON has no infinity; OpenAI writes this for a token that cannot come


class Written:
    """Writes one answer.

    Args:
        job: the request.
        model: the served name.
        fingerprint: of the weights.
        token: token id to text.
        counted: whether a stream ends with its usage.
    """

    def __init__(self, job: Job, model: str, fingerprint: str, token: Callable[[int], str], *, counted: bool) -> None:
        self._job, self._token, self._counted = job, token, counted
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
            "mitigation": job.mitigation.word(),
        }

    def whole(self, done: Done) -> str:
        """Return the whole answer as JSON."""
        choice = Choice(
            message=SaidMessage(content=done.text), logprobs=self._logprobs(done), finish_reason=done.finish
        )
        found = ChatCompletion(**self._head, choices=[choice], usage=_usage(done), receipt=done.receipt)
        return found.model_dump_json()

    async def stream(self, first: Event, following: Callable[[], Awaitable[Event]]) -> AsyncIterator[str]:
        """Yield the pieces as server-sent events; a failure in the middle is one, and the last.

        Args:
            first: what the job delivered first.
            following: waits for what it delivers next.
        """
        yield self._chunk(Delta(role="assistant", content=""))
        event = first
        while isinstance(event, Said):
            yield self._chunk(Delta(content=event.text))
            event = await following()
        if isinstance(event, Failed):
            yield _event(Refused(error=Refusal.of(event.failure).problem).model_dump_json())
            return
        last = PieceChoice(delta=Delta(), finish_reason=event.finish, logprobs=self._logprobs(event))
        yield self._chunk(last, receipt=event.receipt)
        if self._counted:
            yield self._chunk(None, usage=_usage(event))
        yield _event("[DONE]")

    def _chunk(self, piece: Delta | PieceChoice | None, **more: Any) -> str:
        choice = PieceChoice(delta=piece) if isinstance(piece, Delta) else piece
        choices = [] if choice is None else [choice]
        return _event(ChatCompletionChunk(**self._head, choices=choices, **more).model_dump_json())

    def _logprobs(self, done: Done) -> Logprobs | None:
        if self._job.alternatives is None:
            return None
        return Logprobs(content=[self._said(*chances) for chances in done.chances])

    def _said(self, chosen: Chance, *others: Chance) -> SaidToken:
        return SaidToken(**self._named(chosen), top_logprobs=[Alternative(**self._named(one)) for one in others])

    def _named(self, chance: Chance) -> dict[str, Any]:
        text, value = self._token(chance[0]), chance[1]
        return {"token": text, "logprob": value if math.isfinite(value) else _LEAST, "bytes": _bytes(text)}


def _bytes(text: str) -> Sequence[int]:
    return list(text.encode("utf-8", "surrogatepass"))


def _usage(done: Done) -> Usage:
    total = done.prompt_tokens + done.completion_tokens
    return Usage(prompt_tokens=done.prompt_tokens, completion_tokens=done.completion_tokens, total_tokens=total)


def _event(content: str) -> str:
    return f"data: {content}\n\n"
