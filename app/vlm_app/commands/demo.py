"""`vlm-heads demo`: the web page."""

from __future__ import annotations

from typing import Annotated

import typer
from vlm_evals.errors import EvaluationError

from vlm_app.options import DEFAULT_SEED, Device, Json, Seed


def demo(
    share: Annotated[bool, typer.Option("--share", help="Also on a public address.")] = False,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Open the web page; it is not part of this version."""
    raise EvaluationError("this version has no web page: use `vlm-heads describe IMAGE --with vhr --compare` instead")
