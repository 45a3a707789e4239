"""A double of a server that speaks OpenAI's chat completions: it fails as it is told to, and notes what it got."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]  # a status, and JSON or text
Behaviour = Callable[[int, dict[str, Any]], Answer]


def says(text: str) -> Answer:
    """Return an answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}


@dataclass
class ChatServer:
    """What a double was asked.

    Attributes:
        url: below which its addresses lie.
        requests: bodies, in the order they came, without those about the grey picture that tries the server.
        headers: of every request.
        most: requests that were under way at once.
    """

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def prompts(self) -> list[str]:
        """Return what was asked, in the order it came."""
        return [one["messages"][0]["content"][1]["text"] for one in self.requests]


@contextmanager
def chat_server(
    behave: Behaviour = lambda index, request: says("a dog."),
    *,
    models: Any = ("tiny",),
    head: dict[str, str] | None = None,
    slow: float = 0.0,
    trying: bool = True,
) -> Iterator[ChatServer]:
    """Run a double while the context lasts.

    Args:
        behave: takes the number of a request, from 0, and its body. One that only tries the server is answered.
        models: that it lists; None for a server without a list.
        head: sent with every answer.
        slow: seconds that each answer takes.
        trying: whether a request for one token only tries the server.
    """
    seen = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            listed = None if models is None else {"data": [{"id": name} for name in models]}
            self._send(*((404, {"error": "nothing here"}) if listed is None else (200, listed)))

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with seen._lock:
                seen._now += 1
                seen.most = max(seen.most, seen._now)
                seen.headers.append(dict(self.headers))
                tries = trying and request.get("max_tokens") == 1
                index = len(seen.requests)
                if not tries:
                    seen.requests.append(request)
            time.sleep(slow)
            try:
                self._send(*(says("x") if tries and behave is not refuses else behave(index, request)))
            finally:
                with seen._lock:
                    seen._now -= 1

        def _send(self, status: int, value: Any) -> None:
            content = (value if isinstance(value, str) else json.dumps(value)).encode()
            self.send_response(status)
            for name, said in {"Content-Length": str(len(content)), **(head or {})}.items():
                self.send_header(name, said)
            with suppress(ConnectionError):  # a client may have left
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Say nothing of a client that left: it would stand in the output that a test reads."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        seen.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield seen
        finally:
            server.shutdown()
            thread.join()


def refuses(index: int, request: dict[str, Any]) -> Answer:
    """Refuse everything, as a server does that does not know a field."""
    return 400, {"error": {"message": "Unrecognized request argument:\n seed", "type": "invalid_request_error"}}
