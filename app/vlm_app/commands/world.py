"""`vlm-heads world`: the embedded world's scenes, and the training of its models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_app.console import print_json, progress, remark
from vlm_app.examples import epilog
from vlm_app.mistakes import UsageError
from vlm_app.options import DEFAULT_SEED, Device, Json, Seed

app = typer.Typer(
    help="The embedded world: scenes in COCO's format, and the training of the models `mini` and `small`."
)


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

    from vlm_app.models import chosen_device

    remark(f"training into {out}; log.jsonl there says how far it is")
    folder = train_mini(seed, out, device=chosen_device(device))
    if json:
        print_json({"out": str(folder), "seed": seed})
    else:
        print(f"the model is in {folder}; use it with --model {folder}")


@app.command("train-small", epilog=epilog("world train-small"))
def train_small(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the weights, the log and the saved state.")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="Pictures, each with everything said about it.")] = 6000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows per step.")] = 8,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads; on a busy machine one is by far the cheapest.")
    ] = 1,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="float32 or bfloat16, for the frozen weights; the faster by default."),
    ] = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Train the model `small` on its pretrained language model; killed at any time and started again, it goes on."""
    if precision not in (None, "float32", "bfloat16"):
        raise UsageError(f"unknown precision {precision!r}: choose float32 or bfloat16")
    if rows < batch:
        raise UsageError(f"{rows} rows are less than one step of {batch}: ask for more rows or a smaller batch")
    from transformers.utils.logging import disable_progress_bar
    from vlm_evals.scenes.small.parts import load_parts
    from vlm_evals.scenes.small.recipe import SmallRecipe
    from vlm_evals.scenes.small.train import keep_memory
    from vlm_evals.scenes.small.train import train_small as train

    from vlm_app.models import chosen_device

    disable_progress_bar()
    keep_memory()
    recipe = SmallRecipe(seed=seed, rows=rows, batch=batch, threads=threads, frozen=precision)
    remark(f"training into {out}; log.jsonl there says how far it is")
    with progress("training small", recipe.steps) as advance:
        weights = train(recipe, out, load_parts, device=chosen_device(device), advance=advance)
    if json:
        print_json({"out": str(weights), "seed": seed})
    else:
        print(
            f"the weights are in {weights}; make a model of them: vlm-heads world build-small DIR --weights {weights}"
        )


@app.command("build-small", epilog=epilog("world build-small"))
def build_small(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the checkpoint.")],
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="What `world train-small` wrote: a file or its folder; by default what ships."),
    ] = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Put `small` together as an ordinary checkpoint, which plain `from_pretrained` loads. Nothing is drawn or run."""
    from transformers.utils.logging import disable_progress_bar
    from vlm_evals.scenes.small.build import save_small
    from vlm_evals.scenes.small.package import shipped_weights

    disable_progress_bar()
    save_small(weights or shipped_weights(), out)
    if json:
        print_json({"out": str(out)})
    else:
        print(f"the model is in {out}; use it with --model {out}")
