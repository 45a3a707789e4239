"""Several coroutines at once: never more than so many, each begun once, and none left behind."""

import asyncio
from contextlib import aclosing

import pytest
from vlm_evals.endpoint.at_once import at_once


@pytest.mark.parametrize("most", [1, 3, 50])
def test_each_ends_once_and_never_more_are_under_way(most: int) -> None:
    now, highest, ended = 0, 0, []

    async def job(index: int) -> int:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        await asyncio.sleep(0.001 * (index % 4))
        now -= 1
        return index

    async def run() -> None:
        async for done in at_once((job(index) for index in range(20)), most):
            ended.extend(task.result() for task in done)

    asyncio.run(run())
    assert sorted(ended) == list(range(20))
    assert highest == min(most, 20)


def test_what_is_under_way_ends_when_nobody_wants_more() -> None:
    begun, cancelled = [], []

    async def job(index: int) -> int:
        begun.append(index)
        try:
            await asyncio.sleep(0.001 if index == 0 else 60)
        except asyncio.CancelledError:
            cancelled.append(index)
            raise
        return index

    async def run() -> None:
        async with aclosing(at_once((job(index) for index in range(20)), 4)) as groups:
            async for done in groups:
                assert [task.result() for task in done] == [0]
                break

    asyncio.run(run())
    assert (begun, sorted(cancelled)) == ([0, 1, 2, 3], [1, 2, 3])
