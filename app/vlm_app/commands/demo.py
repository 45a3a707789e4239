"""`vlm-heads demo`: the web page."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from vlm_app.console import loading, print_json, remark
from vlm_app.leftovers import temporary_folder
from vlm_app.mistakes import UsageError
from vlm_app.options import DEFAULT_MODEL, DEFAULT_SEED, Device, Json, Model, Seed

FIRST_PORT, PORTS = 7860, 100


def demo(
    share: Annotated[bool, typer.Option("--share", help="Also on a public address, through Gradio's servers.")] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The first port to try; 0 takes any.")
    ] = FIRST_PORT,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Open the web page on 127.0.0.1: what a model looks at, and what mitigation changes."""
    if find_spec("gradio") is None:
        raise UsageError("the page needs gradio, which is not installed: pip install -e '.[page]' in the checkout")
    from vlm_app.models import look_first

    look_first(model=model, device=device)
    free = free_port(port)
    if port and free != port:
        remark(f"port {port} is taken; {free} is used")
    if share:
        remark(
            "--share: anybody who learns the public address can use this page, and every picture passes through "
            "Gradio's servers"
        )
    loading(model)
    with _at_home():
        _serve(model, seed, device, free, share, json)


def _serve(model: str, seed: int, device: str | None, port: int, share: bool, json: bool) -> None:
    from vlm_app.models import load_vlm
    from vlm_app.session import Session

    session = Session(load_vlm(model, device, seed), seed)
    try:
        session.warm_up()
        from vlm_app.page import build_page, launch

        blocks = build_page(session)
        try:
            local, public = launch(blocks, port, share=share)
            stopped = _stopped()  # whoever reads the address may end the page at once
            _say(local, public, json)
            stopped.wait()
        finally:
            blocks.close(verbose=False)
    finally:
        session.close()


def free_port(first: int) -> int:
    """Return the first port on 127.0.0.1 that nobody listens on.

    Raises:
        UsageError: if there is none near.
    """
    for port in range(first, min(first + PORTS, 65536)) if first else [0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UsageError(f"no port from {first} to {first + PORTS - 1} is free: give another with --port")


@contextmanager
def _at_home() -> Iterator[None]:
    """Tell libraries, before they are imported, to report nothing and to write only into a temporary folder.

    Afterwards the folder is removed, and the environment is as it was. What an earlier page left that was killed is
    removed first.
    """
    before, tempdir = dict(os.environ), tempfile.tempdir
    with temporary_folder() as folder:
        tempfile.tempdir = str(folder)
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": str(Path(folder, "uploads")),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path(folder, "matplotlib"))),
        }
        try:
            yield
        finally:
            tempfile.tempdir = tempdir
            os.environ.clear()
            os.environ.update(before)


def _say(local: str, public: str | None, json: bool) -> None:
    if json:
        print_json({"url": local, "public": public})
    else:
        print(f"vlm-heads demo: {local}" + (f" and {public}" if public else ""))
        remark("Press Ctrl+C to end it.")
    sys.stdout.flush()


def _stopped() -> threading.Event:
    """Return what Ctrl+C, a polite kill and the end of the terminal set; under `nohup` the last is left alone."""
    stopped = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(sign) is not signal.SIG_IGN:
            signal.signal(sign, lambda *_: stopped.set())
    return stopped
