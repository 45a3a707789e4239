"""`vlm-heads judge`: score somebody's saved captions or answers; no model and no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_app.console import print_json, print_table, remark
from vlm_app.options import DEFAULT_SEED, Device, Json, Seed

app = typer.Typer(help="Score somebody's saved captions or answers; needs no model and no torch.")

Truth = Annotated[
    list[Path],
    typer.Option("--truth", help="A saved index of objects, a folder with COCO's annotations, or such files."),
]


@app.command("chair")
def chair(
    file: Annotated[Path, typer.Argument(help="Captions: JSON lines or a list with image_id and caption.")],
    truth: Truth,
    pipeline: Annotated[str, typer.Option("--pipeline", help="chair-2018 or chair-opera.")] = "chair-2018",
    vocabulary: Annotated[str, typer.Option("--vocabulary", help="published or corrected.")] = "published",
    per_caption: Annotated[Path | None, typer.Option("--per-caption", help="JSON lines to write.")] = None,
    json: Json = False,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
) -> None:
    """Score captions with CHAIR. Nothing is drawn and no model runs: --seed and --device change nothing."""
    from vlm_evals.judge import judge_chair

    found = judge_chair(
        file,
        truth,
        pipeline=pipeline,  # type: ignore[arg-type]  # checked, with the known ones named, where it is read
        vocabulary=vocabulary,  # type: ignore[arg-type]
        per_caption=per_caption,
    )
    _print(found, json, f"CHAIR of {file.name}, pipeline {found['pipeline']}, vocabulary {found['vocabulary']}")


@app.command("pope")
def pope(
    answers: Annotated[list[Path], typer.Argument(help="Answers, one file for all questions or one for each split.")],
    questions: Annotated[list[Path], typer.Option("--questions", "-q", help="POPE's questions, a file a split.")],
    parser: Annotated[str, typer.Option("--parser", help="strict-neither, pope, opera or vcd.")] = "strict-neither",
    per_question: Annotated[Path | None, typer.Option("--per-question", help="JSON lines to write.")] = None,
    json: Json = False,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
) -> None:
    """Score answers with POPE. Nothing is drawn and no model runs: --seed and --device change nothing."""
    from vlm_evals.judge import judge_pope

    found = judge_pope(answers, questions, parser=parser, per_question=per_question)  # type: ignore[arg-type]
    _print(found, json, f"POPE of {', '.join(file.name for file in answers)}, parser {found['parser']}")


def _print(found: dict[str, Any], json: bool, title: str) -> None:
    if json:
        print_json(found)
        return
    from vlm_evals.reports.tables import LABELS, show

    splits = found.get("splits", {})
    rows = [
        (label, *(show(name, part[name]) for part in splits.values()), show(name, found[name]))
        for name, label in LABELS.items()
        if name in found
    ]
    print_table(title, ("metric", *splits, "mean" if splits else "value"), rows)
    for name, reason in found.get("undefined", {}).items():
        remark(f"{LABELS.get(name, name)} is undefined: {reason}")
    for note in found.get("notes", ()):
        remark(note)
