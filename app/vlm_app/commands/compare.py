"""`vlm-heads compare`: a paired report of two runs on the same items, made from their directories alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_app.options import DEFAULT_SEED, Device, Json, Seed


def compare(
    plain: Annotated[Path, typer.Argument(metavar="DIR_A", help="The run to compare with.")],
    mitigated: Annotated[Path, typer.Argument(metavar="DIR_B", help="The other run.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for report.json, report.md, plots.")] = None,
    json: Json = False,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
) -> None:
    """Compare two runs on the same items; differences are DIR_B minus DIR_A. No model runs."""
    from vlm_evals.scored import compare_runs

    from vlm_app.console import publish
    from vlm_app.mistakes import require_place

    require_place(out)
    publish(compare_runs(plain, mitigated, seed=seed), out, json)
