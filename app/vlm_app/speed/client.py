"""What asking a server costs this machine: processor time of the client for each request, with many at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

from vlm_evals.endpoint.asking import EndpointAsking
from vlm_evals.endpoint.at_once import at_once
from vlm_evals.endpoint.client import Client
from vlm_evals.endpoint.pictures import data_url
from vlm_evals.scenes.samples import sample_names, sample_path

from vlm_app.mistakes import UsageError

QUESTION = "Is there a dog in the image?"


@dataclass(frozen=True)
class ClientCost:
    """What so many requests took.

    Attributes:
        requests: answered.
        concurrency: under way at once.
        processor_ms: of this process for each request: the picture read and encoded, the request written, its reply
            read. The server's own is not in it.
        seconds: for all of them.
        median_ms, slowest_ms: from a request to its reply, the middle one and the one that 1 in 100 exceeds.
    """

    requests: int
    concurrency: int
    processor_ms: float
    seconds: float
    median_ms: float
    slowest_ms: float


def measure(asking: EndpointAsking, requests: int) -> ClientCost:
    """Return what so many requests for one token take, after a tenth as many that are not counted."""
    pictures = [sample_path(name) for name in sample_names()]
    asyncio.run(_latencies(asking, pictures, max(1, requests // 10)))
    start, spent = perf_counter(), process_time()
    latencies = sorted(asyncio.run(_latencies(asking, pictures, requests)))
    spent, seconds = process_time() - spent, perf_counter() - start
    middle, slow = latencies[len(latencies) // 2], latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)]
    per = 1000.0 * spent / requests
    return ClientCost(requests, asking.endpoint.concurrency, per, seconds, 1000.0 * middle, 1000.0 * slow)


async def _latencies(asking: EndpointAsking, pictures: list[Path], requests: int) -> list[float]:
    async def one(index: int) -> float:
        data_url.cache_clear()  # every request has a picture of its own
        picture = data_url(str(pictures[index % len(pictures)]))
        request = asking.request({"max_tokens": 1, "temperature": 0, "seed": index}, picture, QUESTION)
        return (await client.complete(request)).seconds

    found: list[float] = []
    async with (
        Client(asking.endpoint) as client,
        aclosing(at_once((one(index) for index in range(requests)), asking.endpoint.concurrency)) as groups,
    ):
        async for done in groups:
            found += [task.result() for task in done]
    return found


@contextmanager
def own_server(model: str, concurrency: int) -> Iterator[str]:
    """Serve a model in a process of its own while the context lasts; yield its address.

    Raises:
        UsageError: if it does not start.
    """
    words = ["serve", model, "--port", "0", "--json", "--batch-size", "16", "--queue", str(2 * concurrency)]
    with subprocess.Popen([sys.executable, "-m", "vlm_app.cli", *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = "".join(process.stdout.readline() for _ in range(4))
        try:
            if not printed:
                raise UsageError(f"vlm-heads serve {model} did not start; start it by hand and give its --endpoint")
            yield str(json.loads(printed)["url"])
        finally:
            process.terminate()
