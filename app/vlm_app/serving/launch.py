"""Serving until Ctrl+C or a polite kill: what is being answered is said to its end first."""

from __future__ import annotations

import signal
import socket

import uvicorn
from fastapi import FastAPI

_BACKLOG = 256  # connections that wait while the server is busy with others


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that clients can connect to from now on.

    Raises:
        OSError: if the address cannot be had.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    found = socket.socket(family, kind)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except OSError:
        found.close()
        raise
    return found


def address_of(found: socket.socket) -> str:
    """Return the address that clients use."""
    host, port = found.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: FastAPI, found: socket.socket, *, grace: float) -> None:
    """Serve until the process is told to end.

    Args:
        app: what is served.
        found: where; it is closed at the end.
        grace: seconds that answers under way have, once it is to end.
    """
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: None)  # uvicorn takes both, and hands them on when it has ended
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=max(1, round(grace)), backlog=_BACKLOG
    )
    with found:
        uvicorn.Server(config).run(sockets=[found])
