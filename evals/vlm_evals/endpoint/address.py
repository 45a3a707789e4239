"""Where a server is, which model it is asked for, and how patient we are with it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from vlm_evals.errors import TaskError

KEY = "VLM_HEADS_API_KEY"  # the variable of the environment that holds a key, where no other is named


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's chat completions.

    Attributes:
        url: below which the addresses lie, such as `http://127.0.0.1:8000/v1`.
        key: sent as a bearer token, and written nowhere; None for none.
        key_from: the variable of the environment that the key comes from.
        concurrency: requests under way at once.
        seconds: that one request may take.
        tries: of one request, before it is given up.
        pause: seconds before the second try; twice as many before each further one.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    key_from: str = KEY
    concurrency: int = 16
    seconds: float = 600.0
    tries: int = 6
    pause: float = 0.5

    @classmethod
    def of(cls, url: str, *, key_from: str | None = None, concurrency: int = 16, seconds: float = 600.0) -> Self:
        """Return the server at an address, with the key that the environment holds for it.

        Raises:
            TaskError: if it is no such address, or carries a secret; or a variable is named that is not set.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TaskError(f"--endpoint {url!r}: an address is written http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.query or parts.fragment:
            raise TaskError(
                "--endpoint: the address is written down, so it may hold no name, key or question mark: put a key into "
                f"the environment as {KEY}"
            )
        key = os.environ.get(key_from or KEY, "").strip() or None
        if key_from is not None and key is None:
            raise TaskError(f"--key-from {key_from}: the environment has no such variable, or it is empty")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise TaskError(f"the key in {key_from or KEY} holds what no key holds: set it anew")
        return cls(url.rstrip("/"), key, key_from or KEY, concurrency, seconds)

    def hidden(self, text: str) -> str:
        """Return a text without the key, should it hold it."""
        return text if self.key is None else text.replace(self.key, "…")
