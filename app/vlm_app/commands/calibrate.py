"""`vlm-heads calibrate`: static gains with their measured benefit, or the news that there is none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlm_app.console import loading, print_json, print_table
from vlm_app.endpoint import named_server
from vlm_app.mistakes import require_place
from vlm_app.options import (
    DEFAULT_MODEL,
    DEFAULT_SEED,
    Concurrency,
    Device,
    EndpointUrl,
    Json,
    KeyFrom,
    Seed,
    ServedModel,
    Timeout,
)
from vlm_app.view.numbers import interval, share, signed

if TYPE_CHECKING:
    from vlm_app.studies.calibration import Calibration

NO_BENEFIT = 1


def calibrate(
    model: Annotated[str, typer.Argument(help="mini, small, planted, a folder, or a Hugging Face id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the profile.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A folder with COCO's pictures and annotations; by default the embedded world."),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Where everything asked is kept; by default beside the profile.")
    ] = None,
    words: Annotated[
        str,
        typer.Option("--scorer", metavar="NAME[:OPTION=VALUE,…]", help="How heads are scored, as in `score`."),
    ] = "vhd",
    about: Annotated[
        Literal["captions", "questions"] | None,
        typer.Option("--about", help="What a scorer's samples are about, where it has to know what pictures show."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Pictures to score heads on.")] = 256,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Settings to draw from the grid of 30.")] = 8,
    captions: Annotated[int, typer.Option("--captions", min=1, help="Pictures to caption, in each part.")] = 150,
    questioned: Annotated[int, typer.Option("--questioned", min=1, help="Pictures to ask about, in each part.")] = 30,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Tokens a caption may have.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples in one generation.")] = 32,
    even_if_useless: Annotated[
        bool, typer.Option("--even-if-useless", help="Write the profile where no benefit was shown; it says so.")
    ] = False,
    endpoint: EndpointUrl = None,
    served_model: ServedModel = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 600.0,
    key_from: KeyFrom = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Choose static gains on one part of the data, measure them on another, and write them if they help.

    With --endpoint, `vlm-heads serve` is asked about the same model, and only its heads are scored here. Started again,
    it goes on where it stopped. It ends with 1 where no benefit was shown and nothing was written.
    """
    from vlm_evals.data.coco import CocoFolder

    from vlm_app.models import look_first
    from vlm_heads.names import require_scorers

    require_scorers([words])
    look_first(model=model, device=device)
    server = named_server(endpoint, served_model, DEFAULT_MODEL, key_from, concurrency, timeout)
    given = None if data is None else CocoFolder.find(data)
    require_place(out, "folder")
    require_place(runs, "folder")
    loading(model)
    from vlm_evals.answer import Asking, Processes
    from vlm_evals.endpoint.asking import Asker, EndpointAsking

    from vlm_app.models import load_vlm
    from vlm_app.studies.calibration import Sizes, calibrate
    from vlm_app.studies.halves import pictures_of
    from vlm_heads.scorers import parse_scorer

    vlm = load_vlm(model, device, seed)
    asking: Asker = Asking(vlm, batch_size=batch_size)
    if server is not None:
        asking = EndpointAsking.find(server, served_model)
    processes = Processes.current(device)
    where = runs or out.with_name(f"{out.name}.runs")
    pictures, template = pictures_of(
        given, where, captions=captions, questioned=questioned, seed=seed, processes=processes
    )
    sizes = Sizes(samples, trials, captions, questioned, max_tokens)
    scorer = parse_scorer(words)
    found = calibrate(
        vlm, asking, pictures, template, where, sizes, seed=seed, processes=processes, scorer=scorer, about=about
    )
    if not processes.first:
        return
    written = found.benefit or even_if_useless
    if written:
        found.profile.save_pretrained(out)
    if json:
        print_json({"out": str(out) if written else None, "search": list(found.search), **found.profile.card})
    else:
        _print(found, out if written else None, model)
    if not written:
        raise typer.Exit(NO_BENEFIT)


def _print(found: Calibration, out: Path | None, model: str) -> None:
    card = found.profile.card
    rows = [
        (row["setting"], *(signed(row[name]) for name in ("chair_s", "recall", "pope_accuracy")), _word(row["kept"]))
        for row in found.search
    ]
    header = ("setting", "CHAIR_S", "recall", "POPE accuracy", "may be chosen")
    print_table("Tried on one part, difference from plain in percent", header, rows)
    setting = card["setting"]
    title = f"{setting['shape']}, strength {setting['strength']:g}, layers {setting['layers']}: on the other part"
    lines = [(row["metric"], share(row["plain"]), share(row["reinforced"]), interval(row)) for row in card["measured"]]
    print_table(title, ("metric", "plain", "reinforced", "difference, 95 % interval"), lines)
    print(f"{'a benefit was shown' if found.benefit else 'no benefit was shown'}: {found.reason}")
    if out is None:
        print("nothing was written; --even-if-useless writes the profile all the same, and it will say so")
        return
    print(f"profile: {out}; use it with --with reinforced --profile {out}, or vlm-heads fold {model} --profile {out}")


def _word(kept: bool) -> str:
    return "yes" if kept else "no"
