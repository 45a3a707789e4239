"""The door: how many requests may be inside at once, and how each of them ended."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vlm_app.serving.refusals import Refusal
from vlm_app.serving.wire import Refused
from vlm_app.serving.worker import Worker

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ASKING = "/v1/chat/completions"
JOB = "vlm_heads.job"  # where a request's scope holds its job
_LEFT = 499  # how others count a client that left
_LONGEST_WAIT = 60


class Door:
    """An ASGI middleware that lets so many requests for an answer in, and gives each one's job up when it is over.

    Args:
        app: behind the door.
        worker: whose jobs they become.
        most: that may be inside, from their first byte to the end of their answer.
    """

    def __init__(self, app: App, worker: Worker, most: int) -> None:
        self._app, self._worker, self._most = app, worker, most
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or tell it when to come again."""
        if scope["type"] != "http" or scope["path"] != ASKING:
            await self._app(scope, receive, send)
            return
        start, status, whole = time.perf_counter(), _LEFT, False

        async def sending(message: Message) -> None:
            nonlocal status, whole
            status = message.get("status", status)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        self._inside += 1
        try:
            if self._inside > self._most:
                await self._turn_away(sending)
            else:
                await self._app(scope, receive, sending)
        finally:
            self._inside -= 1
            gone = JOB in scope and scope[JOB].left()
            if JOB in scope:
                scope[JOB].leave()
            self._worker.counts.note_request(status if whole and not gone else _LEFT, time.perf_counter() - start)

    async def _turn_away(self, send: Send) -> None:
        wait = min(_LONGEST_WAIT, max(1, math.ceil(self._worker.seconds_until(self._worker.waiting))))
        refusal = Refusal(429, f"{self._most} requests are inside already: ask again later", retry_after=wait)
        headers = [(b"content-type", b"application/json"), (b"retry-after", str(wait).encode())]
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        body = Refused(error=refusal.problem).model_dump_json().encode()
        await send({"type": "http.response.body", "body": body, "more_body": False})
