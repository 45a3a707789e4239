"""The server: its addresses, and what each of them hands to the worker."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from vlm_app.serving.door import ASKING, JOB, Door
from vlm_app.serving.job import Done, Event, Failed
from vlm_app.serving.question import Rules, job_of
from vlm_app.serving.refusals import Refusal
from vlm_app.serving.wire import ChatRequest, Refused, Served, ServedList
from vlm_app.serving.worker import Worker
from vlm_app.serving.written import Written
from vlm_heads.errors import VlmHeadsError

LARGEST_BODY = 24 * 2**20  # a picture of 16 MiB in base64, and the words
BODY_SECONDS = 60.0


@dataclass(frozen=True)
class Guard:
    """Who may ask.

    Attributes:
        key: that requests carry as a bearer token; None for none.
        names: hosts that a request without a key may address, so that no web page reaches a server on this machine
            under a name of its own; None for any.
    """

    key: str | None = None
    names: frozenset[str] | None = None

    async def check(self, request: Request) -> None:
        """Raise `Refusal` for a request that may not ask."""
        if self.key is not None:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self.key}".encode()):
                raise Refusal(401, "the key is missing or wrong: send it as a bearer token")
        elif self.names is not None and request.url.hostname not in self.names:
            raise Refusal(403, "this server is for this machine alone: address it as 127.0.0.1 or localhost")


def build_app(worker: Worker, rules: Rules, weights: str, *, guard: Guard | None = None, most: int = 256) -> FastAPI:
    """Return the application; it starts and stops the worker.

    Args:
        worker: answers.
        rules: what requests are held to.
        weights: fingerprint of the model's weights.
        guard: who may ask; by default anybody.
        most: requests that may be inside at once.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    app = FastAPI(
        title="vlm-heads",
        docs_url=None,  # its page would be fetched from elsewhere
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        middleware=[Middleware(Door, worker=worker, most=most)],
        exception_handlers=dict.fromkeys((Refusal, ValidationError, VlmHeadsError, HTTPException), _refused),
    )
    served = Served(
        id=rules.name,
        created=int(time.time()),
        weights=weights,
        mitigation=rules.mitigation.word(),
        end_tokens=sorted(worker.ends()),
    )
    checked = [Depends((guard or Guard()).check)]

    @app.get("/health")
    async def health() -> Response:
        return PlainTextResponse("ok" if worker.alive else "stopping", 200 if worker.alive else 503)

    @app.get("/metrics", dependencies=checked)
    async def metrics() -> Response:
        gauges = {"vlm_heads_waiting": ("Requests that wait for the model.", worker.waiting)}
        return PlainTextResponse(worker.counts.exposition(gauges), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", dependencies=checked)
    async def models() -> ServedList:
        return ServedList(data=[served])

    @app.get("/v1/models/{name:path}", dependencies=checked)
    async def model(name: str) -> Served:
        if name != served.id:
            raise Refusal(404, f"no model {name[:80]!r} is served here, but {served.id!r}")
        return served

    @app.post(ASKING, dependencies=checked)
    async def chat(request: Request) -> Response:
        return await _answered(request, worker, rules, weights)

    return app


async def _answered(request: Request, worker: Worker, rules: Rules, weights: str) -> Response:
    asked = ChatRequest.model_validate_json(await _body(request))
    events: asyncio.Queue[Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    job = await job_of(asked, rules, lambda event: _hand_over(loop, events, event))
    if not worker.alive:
        raise Refusal(503, "the server is stopping", retry_after=1)
    request.scope[JOB] = job
    worker.put(job)
    first = await _unless_gone(request, events.get)
    if first is None:
        job.leave()
        return Response(status_code=499)
    if isinstance(first, Failed):
        raise Refusal.of(first.failure) from first.failure
    counted = bool(asked.stream_options and asked.stream_options.include_usage)
    written = Written(job, rules.name, weights, worker.token_text, counted=counted)
    if isinstance(first, Done) and not job.streams:
        return Response(written.whole(first), media_type="application/json")
    return StreamingResponse(
        written.stream(first, events.get), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


def _hand_over(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    """Put what the worker's thread delivers where the request waits for it."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, event)


async def _body(request: Request) -> bytes:
    """Return a request's body.

    Raises:
        Refusal: if it is no JSON, too large, or does not come in time.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the body must be JSON, and Content-Type application/json")
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                found += piece
                if len(found) > LARGEST_BODY:
                    raise Refusal(413, f"the request has more than {LARGEST_BODY} bytes; send a smaller picture")
    except TimeoutError:
        raise Refusal(408, f"the request did not come within {BODY_SECONDS:g} seconds") from None
    return bytes(found)


async def _unless_gone(request: Request, wait: Callable[[], Awaitable[Event]]) -> Event | None:
    """Return what comes, or None where the client leaves before."""
    coming = asyncio.ensure_future(wait())
    leaving = asyncio.ensure_future(request.receive())  # after the body, only that the client left
    try:
        await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
        return coming.result() if coming.done() else None
    finally:
        for task in (coming, leaving):
            task.cancel()


async def _refused(_: Request, failure: Exception) -> Response:
    if isinstance(failure, HTTPException):
        failure = Refusal(failure.status_code, str(failure.detail))
    refusal = Refusal.of(failure)
    body = Refused(error=refusal.problem).model_dump_json()
    return Response(body, refusal.status, refusal.headers, "application/json")
