"""`vlm-heads tune`: the mitigation for a model, with its evidence, or the news that none helps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_app.console import loading, print_json, print_table
from vlm_app.mistakes import UsageError, require_place
from vlm_app.options import DEFAULT_SEED, Device, Json, Seed
from vlm_app.view.numbers import interval, share, signed

if TYPE_CHECKING:
    from vlm_app.studies.tuning import Tuned

NO_BENEFIT = 1


def tune(
    model: Annotated[str, typer.Argument(help="mini, small, planted, a folder, or a Hugging Face id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the mitigation.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="A folder with COCO's pictures and annotations; by default the embedded world."),
    ] = None,
    tried: Annotated[
        list[str] | None,
        typer.Option("--try", metavar="WORDS", help="A setting to try, as m3id or 'vhr vcd'; several times."),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Where everything asked is kept; by default beside the mitigation.")
    ] = None,
    captions: Annotated[int, typer.Option("--captions", min=1, help="Pictures to caption, in each half.")] = 150,
    questioned: Annotated[int, typer.Option("--questioned", min=1, help="Pictures to ask about, in each half.")] = 30,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Tokens a caption may have.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples in one generation.")] = 32,
    even_if_useless: Annotated[
        bool, typer.Option("--even-if-useless", help="Write the mitigation where no benefit was shown; it says so.")
    ] = False,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Try mitigations on one half of the pictures, measure the best on the other, and write it if it helps.

    Started again, it goes on where it stopped. It ends with 1 where no benefit was shown and nothing was written.
    """
    from vlm_evals.data.coco import CocoFolder

    from vlm_app.models import look_first
    from vlm_heads.names import words_in

    if empty := [words for words in tried or () if not words_in(words)]:
        raise UsageError(f"--try {empty[0]!r} names no setting: name one, such as vhr, or leave it out")
    look_first(model=model, device=device, words=[word for words in tried or () for word in words_in(words)])
    given = None if data is None else CocoFolder.find(data)
    require_place(out, "folder")
    require_place(runs, "folder")
    loading(model)
    from vlm_evals.answer import Asking, Processes
    from vlm_evals.records import write_json

    from vlm_app.models import load_vlm
    from vlm_app.studies.halves import pictures_of
    from vlm_app.studies.tuning import TRIED
    from vlm_app.studies.tuning import tune as search

    processes = Processes.current(device)
    asking = Asking(load_vlm(model, device, seed), batch_size=batch_size, allow_idle=True)
    where = runs or out.with_name(f"{out.name}.runs")
    pictures, template = pictures_of(
        given, where, captions=captions, questioned=questioned, seed=seed, processes=processes
    )
    found = search(
        asking, pictures, template, where, tried or TRIED, captions=captions, questioned=questioned,
        max_tokens=max_tokens, seed=seed, processes=processes,
    )  # fmt: skip
    if not processes.first:
        return
    written = found.benefit or even_if_useless
    if written:
        found.mitigation.save_pretrained(out)
        write_json(out / "evidence.json", found.card)
    if json:
        print_json({"out": str(out) if written else None, **found.card})
    else:
        _print(found, out if written else None)
    if not written:
        raise typer.Exit(NO_BENEFIT)


def _print(found: Tuned, out: Path | None) -> None:
    header = ("setting", "CHAIR_S at equal recall", "CHAIR_S", "recall", "POPE accuracy", "may be chosen")
    names = ("at_equal_recall", "chair_s", "recall", "pope_accuracy")
    rows = [
        (row["setting"], *(signed(row[name]) for name in names), "yes" if row["kept"] else "no") for row in found.rows
    ]
    print_table("Tried on one half, difference from plain in percent", header, rows)
    for setting, why in found.unfit.items():
        print(f"{setting} cannot act: {why}")
    measured = [
        (row["metric"], share(row["plain"]), share(row["reinforced"]), interval(row)) for row in found.card["measured"]
    ]
    words = found.mitigation.word()
    print_table(f"{words}: on the other half", ("metric", "plain", "mitigated", "difference, 95 % interval"), measured)
    print(f"{'a benefit was shown' if found.benefit else 'no benefit was shown'}: {found.reason}")
    if out is None:
        print("nothing was written; --even-if-useless writes the mitigation all the same, and it will say so")
        return
    print(f"mitigation: {out}; use it with --with {out}, or in Python:")
    print(f'    with attach(model, Mitigation.from_pretrained("{out}"), processor=processor):')
    print("        model.generate(**inputs)")
