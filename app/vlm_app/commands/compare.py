"""`vlm-heads compare`: two runs on the same items, or any number of them, from directories and files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_app.options import DEFAULT_SEED, Device, Json, Seed


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…",
            help="Run directories; folders of `eval --paired`, with all their controls; files of saved answers.",
        ),
    ],
    against: Annotated[
        Path | None, typer.Option("--against", "-a", help="What the others are compared with; by default the first.")
    ] = None,
    budget: Annotated[
        list[int] | None,
        typer.Option(
            "--budget", min=1, help="Also within so many tokens, as 64; of saved captions within so many words."
        ),
    ] = None,
    truth: Annotated[
        list[Path] | None, typer.Option("--truth", help="Of saved captions: as for `judge chair`.")
    ] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", help="Of saved captions.")] = None,
    vocabulary: Annotated[str | None, typer.Option("--vocabulary", help="Of saved captions.")] = None,
    questions: Annotated[
        list[Path] | None, typer.Option("--questions", "-q", help="Of saved answers: as for `judge pope`.")
    ] = None,
    parser: Annotated[str | None, typer.Option("--parser", help="Of saved answers.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for report.json, report.md, plots.")] = None,
    json: Json = False,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
) -> None:
    """Compare runs on the same items; no model runs.

    Two runs give a paired report, the second minus the first. More of them, --against or --budget give one table and
    one plot of what is found against what is invented: with intervals, tests corrected for their number, the plain
    model's curves, and the names of those that no other run dominates.
    """
    from vlm_evals.many import compare_paths

    from vlm_app.console import publish
    from vlm_app.mistakes import require_place

    require_place(out, "folder")
    options = {
        "truth": truth, "pipeline": pipeline, "vocabulary": vocabulary, "questions": questions, "parser": parser,
    }  # fmt: skip
    publish(compare_paths(runs, base=against, options=options, budgets=budget or (), seed=seed), out, json)
