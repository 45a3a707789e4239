"""The server that a command asks in place of a model of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_app.options import DEFAULT_MODEL

if TYPE_CHECKING:
    from vlm_evals.endpoint.address import Endpoint


def named_server(
    url: str | None, served: str | None, model: str, key_from: str | None, concurrency: int, seconds: float
) -> Endpoint | None:
    """Return the server to ask; None for a model of our own.

    Args:
        url: of `--endpoint`.
        served: of `--served-model`.
        model: of `--model`.
        key_from: of `--key-from`.
        concurrency: requests at once.
        seconds: that one may take.

    Raises:
        TaskError: if a server and a model are named, or one of a server's options without a server; or the address or
            the key cannot be used.
    """
    from vlm_evals.errors import TaskError

    if url is None:
        if served is not None or key_from is not None:
            raise TaskError("--served-model and --key-from are about a server: name it with --endpoint")
        return None
    if model != DEFAULT_MODEL:
        raise TaskError("--model is loaded here, and --endpoint asks a server: name its model with --served-model")
    from vlm_evals.endpoint.address import Endpoint

    return Endpoint.of(url, key_from=key_from, concurrency=concurrency, seconds=seconds)
