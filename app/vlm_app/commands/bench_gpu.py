"""`vlm-heads bench gpu`: everything that needs a GPU, in one command that ends in time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_app.console import print_json, remark
from vlm_app.mistakes import UsageError
from vlm_app.options import Device, Json

Minutes = Annotated[float, typer.Option("--minutes", min=0.5, help="For everything; what does not fit is named.")]
Write = Annotated[
    Path | None, typer.Option("--write", help="Page whose block `gpu` receives the tables, kernels/RESULTS.md say.")
]


def gpu(minutes: Minutes = 9.0, write: Write = None, device: Device = None, json: Json = False) -> None:
    """Run the GPU tests, time generation at batch 1, 8 and 32 and the attention kernels, and write one table of it.

    For a GPU that is there for a short time: one call does everything within --minutes. Start it in a checkout, where
    the tests are.
    """
    import torch

    from vlm_app.blocks import require_block, write_block

    if write is not None:
        require_block(write, "gpu")
    if not torch.cuda.is_available():
        raise UsageError("bench gpu needs a CUDA device and torch sees none here: `vlm-heads bench` times this CPU")
    from vlm_app.speed.session import Session, session_page
    from vlm_app.speed.usual import usual_methods

    found = Session(torch.device(device or "cuda"), 60 * minutes, usual_methods).run(remark)
    if write is not None:
        write_block(write, "gpu", session_page(found))
    if json:
        print_json(found)
    else:
        typer.echo(session_page(found))
    if found["tests"]["status"] or any(row["wrong"] for row in found["kernels"]):
        raise typer.Exit(1)
