"""What the server has done, as Prometheus reads it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # seconds


class Seconds:
    """A histogram of times."""

    def __init__(self) -> None:
        self._counts, self._sum = [0] * (len(_BOUNDS) + 1), 0.0

    def note(self, seconds: float) -> None:
        """Count one time."""
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str, help: str) -> Iterator[str]:
        """Yield the lines of an exposition."""
        yield from _head(name, "histogram", help)
        total = 0
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {total}"


class Counts:
    """Counters that several threads raise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[int] = Counter()
        self._seconds, self._batch_seconds = Seconds(), Seconds()
        self._prompt_tokens = self._completion_tokens = self._batches = self._batched = self._left = 0
        self._spent = 0.0

    def note_request(self, status: int, seconds: float) -> None:
        """Count a request for an answer, by how it ended."""
        with self._lock:
            self._requests[status] += 1
            self._seconds.note(seconds)

    def note_batch(self, jobs: int, seconds: float) -> None:
        """Count a batch."""
        with self._lock:
            self._batches += 1
            self._batched += jobs
            self._spent += seconds
            self._batch_seconds.note(seconds)

    def note_tokens(self, prompt: int, completion: int) -> None:
        """Count an answer's tokens."""
        with self._lock:
            self._prompt_tokens += prompt
            self._completion_tokens += completion

    def note_left(self, jobs: int) -> None:
        """Count jobs whose client has left."""
        with self._lock:
            self._left += jobs

    @property
    def seconds_a_job(self) -> float:
        """How long the model has taken for a job, on average; 1 before the first."""
        with self._lock:
            return self._spent / self._batched if self._batched else 1.0

    def exposition(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Return everything in Prometheus' text format.

        Args:
            gauges: name -> what it is, and its value now.
        """
        with self._lock:
            return "\n".join([*self._lines(), *_gauges(gauges)]) + "\n"

    def _lines(self) -> Iterator[str]:
        name = "vlm_heads_requests_total"
        yield from _head(name, "counter", "Requests for an answer, by HTTP status; 499 where the client left.")
        yield from (f'{name}{{status="{status}"}} {count}' for status, count in sorted(self._requests.items()))
        counters = {
            "vlm_heads_prompt_tokens_total": ("Tokens of prompts, pictures included.", self._prompt_tokens),
            "vlm_heads_completion_tokens_total": ("Tokens of answers.", self._completion_tokens),
            "vlm_heads_batches_total": ("Batches that the model answered.", self._batches),
            "vlm_heads_batched_requests_total": ("Requests in these batches.", self._batched),
            "vlm_heads_cancelled_total": ("Requests whose client left before the end.", self._left),
        }
        for name, (help, value) in counters.items():
            yield from _head(name, "counter", help)
            yield f"{name} {value}"
        yield from self._seconds.lines("vlm_heads_request_seconds", "From a request to its end.")
        yield from self._batch_seconds.lines("vlm_heads_batch_seconds", "What the model took for a batch.")


def _gauges(gauges: Mapping[str, tuple[str, float]]) -> Iterator[str]:
    for name, (help, value) in gauges.items():
        yield from _head(name, "gauge", help)
        yield f"{name} {value}"


def _head(name: str, kind: str, help: str) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"
