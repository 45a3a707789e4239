"""Sends requests to a server: tries again where it is busy or away, and tells its refusals from its failures."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx2

from vlm_evals.endpoint.address import Endpoint
from vlm_evals.errors import RunError

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_FAILS = frozenset({200, 400, 413, 415, 422, 500})  # what one request may meet with and another not
_LONGEST_PAUSE = 60.0
_SAID = 300  # characters of a server's words that a message repeats


class Refused(Exception):  # noqa: N818
    """A server gave one request no answer; the message says why.

    Args:
        said: why.
        status: of HTTP.
    """

    def __init__(self, said: str, status: int = 200) -> None:
        self.status = status
        super().__init__(said)


class Reply(NamedTuple):
    """What a server sent.

    Attributes:
        body: a JSON object.
        seconds: from the request to the whole reply, of the try that succeeded.
    """

    body: dict[str, Any]
    seconds: float


class Client:
    """One connection pool to a server; an asynchronous context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        headers = {} if endpoint.key is None else {"Authorization": f"Bearer {endpoint.key}"}
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(endpoint.seconds, connect=min(30.0, endpoint.seconds)),
            limits=httpx2.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency),
            follow_redirects=False,  # a key goes to the server that was named, and to no other
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, failure, trace)

    async def models(self) -> list[dict[str, Any]] | None:
        """Return the models that the server lists; None where it lists none.

        Raises:
            RunError: if it does not answer, or wants a key.
        """
        try:
            body = (await self._sent("GET", "/models", None)).body
        except Refused:
            return None  # some servers have no list
        listed = body.get("data")
        if not isinstance(listed, list):
            return None
        return [one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)]

    async def complete(self, request: Mapping[str, Any]) -> Reply:
        """Return the reply to a chat completion.

        Raises:
            Refused: if the server cannot answer this one request.
            RunError: if it answers none.
        """
        try:
            return await self._sent("POST", "/chat/completions", json.dumps(request))
        except Refused as refusal:
            if refusal.status in _FAILS:
                raise
            place = self._endpoint.url
            raise RunError(f"{place} takes no such request ({refusal}): is it an OpenAI API's, with /v1?") from refusal

    async def _sent(self, method: str, path: str, content: str | None) -> Reply:
        place = f"{self._endpoint.url}{path}"
        headers = {"Content-Type": "application/json"} if content is not None else {}
        pause, said = self._endpoint.pause, ""
        for left in reversed(range(self._endpoint.tries)):
            start = time.perf_counter()
            try:
                response = await self._http.request(method, place, content=content, headers=headers)
            except httpx2.TransportError as failure:
                said, wait, status = f"{type(failure).__name__}: {failure}".rstrip(": "), 0.0, 0
            else:
                status = response.status_code
                if status == 200:
                    return Reply(self._object(response), time.perf_counter() - start)
                said, wait = f"status {status}: {_told(response)}", _asked_to_wait(response)
                if status not in _AGAIN:
                    break
            if left:
                await asyncio.sleep(min(_LONGEST_PAUSE, max(wait, pause * random.uniform(0.5, 1.0))))
                pause *= 2
        raise self._given_up(status, said)

    def _object(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Refused(self._endpoint.hidden(f"the server sent no JSON object but {response.text[:60]!r}"))
        return body

    def _given_up(self, status: int, said: str) -> Exception:
        """Return what to raise after the last try."""
        endpoint = self._endpoint
        said = endpoint.hidden(" ".join(said.split()))
        if status in (401, 403):
            return RunError(
                f"{endpoint.url} lets nobody in ({said}): put the key into the environment as {endpoint.key_from}"
            )
        if status == 0 or status in _AGAIN - _FAILS:
            return RunError(
                f"{endpoint.url} gave no answer in {endpoint.tries} tries ({said}): start the same command again when "
                "it is there, it goes on where it stopped"
            )
        return Refused(said, status)


def _told(response: httpx2.Response) -> str:
    """Return what a server says about a refusal, in any of the shapes there are."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:_SAID]
    inner = body.get("error", body) if isinstance(body, dict) else body
    told = inner.get("message", inner.get("detail", inner)) if isinstance(inner, dict) else inner
    return (told if isinstance(told, str) else json.dumps(told))[:_SAID]


def _asked_to_wait(response: httpx2.Response) -> float:
    """Return the seconds of a Retry-After; 0 where there is none, or it is a date."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
