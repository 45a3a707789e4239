"""Several coroutines at once, and never more than so many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def at_once(
    jobs: Iterable[Coroutine[Any, Any, Result]], most: int
) -> AsyncGenerator[set[asyncio.Task[Result]], None]:
    """Yield groups of tasks as they end; a task's result or failure is read from it.

    Close the iterator to cancel what is still under way.

    Args:
        jobs: begun one after the other, each when there is room.
        most: that are under way at once.
    """
    running: set[asyncio.Task[Result]] = set()
    try:
        for job in jobs:
            running.add(asyncio.create_task(job))
            if len(running) >= most:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                yield done
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            yield done
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
