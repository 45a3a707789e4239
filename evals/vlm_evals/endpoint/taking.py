"""Writes answers as they come; what a server refuses waits until it has answered something."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import NamedTuple

from vlm_evals.answer import check_failures
from vlm_evals.errors import RunError
from vlm_evals.records import Answer
from vlm_evals.runs import Run


class Reached(NamedTuple):
    """What asking about one sample came to.

    Attributes:
        answer: to be written.
        refused: whether the server gave none, which may be the sample's fault or that of everything asked.
    """

    answer: Answer
    refused: bool = False


class Taking:
    """The answers of one start of a run.

    A server that refuses one request in a hundred refuses that sample. A server that refuses the first hundred refuses
    what is asked, as one whose context is too short for the tokens an answer may have: written down as the samples'
    errors, the refusals would stand in the report and would not be asked again.

    Args:
        run: where answers are written.
        max_failures: samples without an answer that the run may hold.
        where: the server's address.
    """

    def __init__(self, run: Run, max_failures: int, where: str) -> None:
        self._run, self._max_failures, self._where = run, max_failures, where
        self._answered = any(one.error is None for one in run.answers.values())
        self._waiting: list[Answer] = []

    def take(self, done: Collection[asyncio.Task[Reached]]) -> None:
        """Write what has come; where others failed beside it, it is kept all the same.

        Raises:
            RunError: if a task raised it, if too many samples failed, or if the server has refused more than may fail
                and answered nothing.
        """
        failures = [failure for task in done if (failure := task.exception()) is not None]
        reached = [task.result() for task in done if task.exception() is None]
        self._answered |= any(one.answer.error is None for one in reached)
        self._waiting += [one.answer for one in reached if one.refused]
        self._run.append(one.answer for one in reached if not one.refused)
        if self._answered:
            self._run.append(self._waiting)
            self._waiting = []
        if failures:
            raise failures[0]
        check_failures(self._run, self._max_failures)
        if len(self._waiting) > self._max_failures:
            raise self._refusal()

    def end(self) -> None:
        """Say so where everything that was asked was refused; nothing of it is written then.

        Raises:
            RunError: with the first refusal.
        """
        if self._waiting:
            raise self._refusal()

    def _refusal(self) -> RunError:
        count, first = len(self._waiting), self._waiting[0]
        return RunError(
            f"{self._where} has answered nothing and refused {'a request' if count == 1 else f'{count} requests'}; the "
            f"first was sample {first.sample_id}: {first.error}"
        )
