"""What a command of `vlm-heads` leaves behind when a test runs it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)


Command = Callable[..., Outcome]
Mistake = Callable[..., str]
