"""A server in a thread of the test's own process, and what clients send it."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from vlm_app.serving.launch import address_of, listening
from vlm_app.serving.question import Rules
from vlm_app.serving.server import Guard, build_app
from vlm_app.serving.worker import Worker
from vlm_evals.answer import fingerprint

from vlm_heads import VLM

DESCRIBE = "Please describe this image in detail."


@dataclass(frozen=True)
class Serving:
    """A running server.

    Attributes:
        url: below which the addresses lie, without `/v1`.
        worker: that answers.
    """

    url: str
    worker: Worker


@contextmanager
def serving(
    vlm: VLM, *, rules: Rules | None = None, guard: Guard | None = None, most: int = 256, together: int = 16
) -> Iterator[Serving]:
    """Serve a model while the context lasts."""
    worker = Worker(vlm, together=together)
    app = build_app(worker, rules or Rules(vlm.name), fingerprint(vlm.model), guard=guard, most=most)
    found = listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [found]})
    thread.start()
    try:
        yield Serving(address_of(found), worker)
    finally:
        server.should_exit = True
        thread.join()
        found.close()


def data_url(picture: bytes | Path | Image.Image) -> str:
    """Return a picture as requests carry it."""
    if isinstance(picture, Path):
        picture = picture.read_bytes()
    if isinstance(picture, Image.Image):
        written = io.BytesIO()
        picture.save(written, "PNG")
        picture = written.getvalue()
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def user(picture: bytes | Path | Image.Image | str, prompt: str = DESCRIBE) -> dict[str, Any]:
    """Return the user's turn with a picture, or with one at an address."""
    url = picture if isinstance(picture, str) else data_url(picture)
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}],
    }


def wait_until(holds: Any, seconds: float = 60.0) -> None:
    """Wait until something holds; fail where it does not in time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)
