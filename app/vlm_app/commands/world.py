"""`vlm-heads world`: the embedded world's scenes, and the training of its model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_app.console import print_json, progress, remark
from vlm_app.examples import epilog
from vlm_app.mistakes import UsageError
from vlm_app.options import DEFAULT_SEED, Device, Json, Seed

app = typer.Typer(help="The embedded world: scenes in COCO's format, and the training of the model `mini`.")


@app.command("export", epilog=epilog("world export"))
def export(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    split: Annotated[
        str, typer.Option("--split", help="train, validation, held-out, shifted or scrambled.")
    ] = "held-out",
    images: Annotated[int, typer.Option("--images", min=1, help="How many scenes.")] = 500,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write scenes as PNG, instances.json and captions.json; the same seed gives the same bytes. No model runs."""
    from vlm_evals.scenes.export import export_world
    from vlm_evals.scenes.world import SPLITS

    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    with progress("drawing scenes", images) as advance:

        def counted(scenes: Iterator[Any]) -> Iterator[Any]:
            for scene in scenes:
                yield scene
                advance(1)

        export_world(out, split=split, images=images, seed=seed, progress=counted)
    if json:
        print_json({"out": str(out), "split": split, "images": images, "seed": seed})
    else:
        print(f"{images} scenes of {split} (seed {seed}) in {out}")


@app.command("train", epilog=epilog("world train"))
def train(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the model and its training log.")],
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Train the embedded model from nothing; takes about an hour on two cores."""
    from vlm_evals.scenes.train import train_mini

    remark(f"training into {out}; log.jsonl there says how far it is")
    folder = train_mini(seed, out)
    if json:
        print_json({"out": str(folder), "seed": seed})
    else:
        print(f"the model is in {folder}; use it with --model {folder}")
