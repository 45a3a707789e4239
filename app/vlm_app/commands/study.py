"""`vlm-heads study`: the project's own experiments on the embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_app.console import loading, print_json, remark
from vlm_app.examples import epilog
from vlm_app.options import DEFAULT_MODEL, DEFAULT_SEED, Device, Json, Model, Seed, With

app = typer.Typer(help="The project's own experiments on the embedded world.")

Run = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; started again it goes on.")]
Block = Annotated[Path | None, typer.Option("--write", help="Page whose block about the model is filled in.")]


def _begin(model: str, device: str | None, words: list[str] | None = None) -> None:
    """Look at the names before torch is imported, and say that a model is loaded."""
    from vlm_app.models import look_first

    look_first(model=model, device=device, words=words)
    loading(model)


@app.command("held-out", epilog=epilog("study held-out"))
def held_out(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report; started again it goes on.")] = Path(
        "demo-report"
    ),
    captions: Annotated[int | None, typer.Option("--captions", min=1, help="Scenes to caption.")] = None,
    questioned: Annotated[
        int | None, typer.Option("--questioned", min=1, help="Scenes to ask questions about.")
    ] = None,
    words: With = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="As elsewhere; small by default where it is installed, else mini."),
    ] = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Compare a model with and without mitigation on held-out scenes; an embedded one has a mitigation by default."""
    from vlm_app.studies.chosen import OTHER, SHOWN, shown_model

    if model is None:
        model, reason = shown_model()
        if reason:
            remark(f"mini stands in for small: {reason}")
    shown = SHOWN.get(model, OTHER)
    _begin(model, device, words)
    from vlm_app.studies.held_out import held_out as compare

    compare(
        out, captions=captions or shown.captions, questioned=questioned or shown.questioned,
        words=words or shown.words, model=model, seed=seed, device=device, json=json,
    )  # fmt: skip


@app.command("findings", epilog=epilog("study findings"))
def findings(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for findings.json.")] = Path("runs/findings"),
    images: Annotated[int, typer.Option("--images", min=2, help="Held-out scenes to caption.")] = 600,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="MODEL", help="Another training of the same model; its heads are scored too."),
    ] = None,
    write: Annotated[Path | None, typer.Option("--write", help="Page that gets a part about the model.")] = None,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure what is true of a model: its sinks, its vision-aware heads, what T-VHD tells, what it recalls."""
    from vlm_app.models import look_first

    for other in also or ():
        look_first(model=other)
    _begin(model, device)
    from vlm_app.studies.findings.measure import find
    from vlm_app.studies.findings.page import write_page

    found = find(out, model=model, images=images, seed=seed, device=device, also=also or ())
    if write is not None:
        write_page(write, [out])
    if json:
        print_json(found)
    else:
        print(f"findings: {write or out / 'findings.json'}")


@app.command("findings-page", epilog=epilog("study findings-page"))
def findings_page(
    page: Annotated[Path, typer.Argument(help="Page to write; `findings` beside it keeps what was measured.")],
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN…", help="Folders of `study findings` to keep from now on.")
    ] = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write the page of findings from what was measured. No model runs: --seed and --device change nothing."""
    from vlm_app.studies.findings.page import write_page

    written = [str(path) for path in write_page(page, runs or ())]
    if json:
        print_json(written)
    else:
        print(f"findings: {written[0]} ({len(written) - 1} pictures)")


@app.command("heads", epilog=epilog("study heads"))
def heads(
    out: Run = Path("runs/heads"),
    images: Annotated[
        int, typer.Option("--images", min=2, help="Validation scenes; small takes a minute of one core for each.")
    ] = 8,
    write: Block = None,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Switch off and double every head of a model, one by one, and find out what it does for what the model says."""
    _begin(model, device)
    from vlm_app.studies.heads.measure import FILE, measure_heads
    from vlm_app.studies.heads.page import sentences, write_heads
    from vlm_app.studies.heads.pictures import draw_heads

    found = measure_heads(out, model=model, images=images, seed=seed, device=device)
    pictures = draw_heads(found, out)
    if write is not None:
        write_heads(write, found)
    if json:
        print_json(found)
        return
    print("\n".join(sentences(found)))
    print(f"heads: {write or out / FILE} ({len(pictures)} pictures)")


@app.command("branches", epilog=epilog("study branches"))
def branches(
    out: Run = Path("runs/branches"),
    images: Annotated[int, typer.Option("--images", min=2, help="Validation scenes.")] = 40,
    write: Block = None,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Hide the image from the text from each layer on, and find out what is lost: why BranchContrast leaves where."""
    _begin(model, device)
    from vlm_app.studies.branches.measure import FILE, measure_branches
    from vlm_app.studies.branches.page import sentences, write_branches
    from vlm_app.studies.branches.pictures import draw_branches

    found = measure_branches(out, model=model, images=images, seed=seed, device=device)
    picture = draw_branches(found, out)
    if write is not None:
        write_branches(write, found)
    if json:
        print_json(found)
        return
    print("\n".join(sentences(found)))
    print(f"branches: {write or out / FILE} ({picture})")


@app.command("route", epilog=epilog("study route"))
def route(
    out: Run = Path("runs/route"),
    images: Annotated[int, typer.Option("--images", min=2, help="Validation scenes.")] = 40,
    gain: Annotated[float, typer.Option("--gain", min=0.0, help="On the image's route.")] = 1.5,
    write: Block = None,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Gain the image's route, layers by layers, and find out which words become likelier: what RouteGain does."""
    _begin(model, device)
    from vlm_app.studies.route.measure import FILE, measure_route
    from vlm_app.studies.route.page import sentences, write_route
    from vlm_app.studies.route.pictures import draw_route

    found = measure_route(out, model=model, images=images, gain=gain, seed=seed, device=device)
    picture = draw_route(found, out)
    if write is not None:
        write_route(write, found)
    if json:
        print_json(found)
        return
    print("\n".join(sentences(found)))
    print(f"route: {write or out / FILE} ({picture})")


@app.command("route-heads", epilog=epilog("study route-heads"))
def route_heads(
    out: Run = Path("runs/route-heads"),
    scorers: Annotated[
        list[str] | None,
        typer.Option("--scorer", metavar="NAME[:OPTION=VALUE,…]", help="As in `score`; several times; by default all."),
    ] = None,
    gain: Annotated[float, typer.Option("--gain", min=0.0, help="On the image's route.")] = 1.5,
    layers: Annotated[str, typer.Option("--layers", help="As an option of route: last-half, all, 2+4-7.")] = "all",
    captions: Annotated[int, typer.Option("--captions", min=12, help="Validation scenes to caption.")] = 300,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Other scenes, which heads are scored on.")] = 32,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Scenes in one generation.")] = 100,
    write: Block = None,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Let each scorer choose RouteGain's heads, and compare at equal recall: is one of them a guide?"""
    from vlm_heads.names import require_scorers

    require_scorers(scorers or [])
    _begin(model, device, [f"route:image={gain},layers={layers}"])
    from vlm_app.studies.route.by_scorer import FILE, Sizes, heads_table, measure_scorers, write_heads_block
    from vlm_heads import RouteGain, parse_intervention
    from vlm_heads.scorers import known_scorers

    route = parse_intervention(f"route:image={gain},layers={layers}")
    assert isinstance(route, RouteGain), "its word says so"
    found = measure_scorers(
        out, model=model, scorers=scorers or list(known_scorers()), route=route,
        sizes=Sizes(captions, samples, batch), seed=seed, device=device,
    )  # fmt: skip
    if found is None:
        return  # another process of the same start prints
    if write is not None:
        write_heads_block(write, found)
    if json:
        print_json(found)
    else:
        print(f"{heads_table(found)}\nroute-heads: {write or out / FILE}")


@app.command("opening", epilog=epilog("study opening"))
def opening(
    write: Annotated[Path | None, typer.Option("--write", help="File of openings that gets the model's.")] = None,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Find the run that the page opens on: the plain answer invents something, and the mitigated one does not."""
    _begin(model, device)
    from vlm_app.studies.opening import find_opening, keep

    found = find_opening(model, seed=seed, device=device)
    if write is not None:
        keep(write, model, found)
    if json:
        print_json(found)
    elif found is None:
        print("opening: no sample and no setting gives such a run; the planted model's stands in")
    else:
        print(f"opening: {found['image']} with {' '.join(found['words'])}")
        print(f"plain:     {found['plain']}\nmitigated: {found['mitigated']}")


@app.command("grounding", epilog=epilog("study grounding"))
def grounding(
    models: Annotated[list[str], typer.Option("--model", "-m", help="As elsewhere; several times for several models.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs; started again it goes on.")] = Path(
        "runs/grounding"
    ),
    split: Annotated[str, typer.Option("--split", help="held-out, validation, shifted or scrambled.")] = "held-out",
    captions: Annotated[int, typer.Option("--captions", min=2, help="Scenes to caption.")] = 600,
    questioned: Annotated[int, typer.Option("--questioned", min=0, help="Scenes to ask questions about.")] = 150,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure how well models of the embedded world see, and whether their language model is still itself."""
    from vlm_app.models import look_first

    for model in models:
        look_first(model=model, device=device)
    loading(", ".join(models))
    from vlm_app.studies.grounding import grounding as measure
    from vlm_app.studies.grounding import table

    found = measure(out, models=models, split=split, captions=captions, questioned=questioned, seed=seed, device=device)
    if found is None:
        return  # another process of the same start prints
    if json:
        print_json(found)
    else:
        print(table(found))


@app.command("league", epilog=epilog("study league"))
def league(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs and the tables.")] = Path("runs/league"),
    only: Annotated[str | None, typer.Option("--only", help="route: RouteGain's rows alone, for another seed.")] = None,
    words: Annotated[
        list[str] | None,
        typer.Option("--with", "-w", metavar="WORDS", help="These alone, as m3id or 'vhr vcd'; several times."),
    ] = None,
    controls: Annotated[bool, typer.Option("--controls", help="The controls of what --with names play too.")] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", metavar="NAME,…", help="These methods alone, as askback,branch,m3id; all by default."
        ),
    ] = None,
    scale: Annotated[float, typer.Option("--scale", min=0.0, help="Share of the full number of scenes.")] = 1.0,
    validation: Annotated[
        int | None, typer.Option("--validation", min=12, help="Scenes that choose settings; 300 × --scale by default.")
    ] = None,
    splits: Annotated[
        str | None, typer.Option("--splits", metavar="NAME,…", help="held-out, shifted, scrambled; all by default.")
    ] = None,
    captions_only: Annotated[bool, typer.Option("--captions-only", help="Ask none of POPE's questions.")] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Scenes in one generation.")] = 100,
    write: Annotated[
        Path | None, typer.Option("--write", help="Page whose block is filled in: `league`, or `given`.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Play every method on the same scenes at equal recall; `torchrun` shares the work between processes."""
    named = [] if methods is None else [name.strip() for name in methods.split(",")]
    _begin(model, device, named)
    from vlm_app.studies.league.play import play

    found = play(
        out, model=model, only=only, scale=scale, write=write, seed=seed, device=device, given=words or (),
        controls=controls, methods=named, batch=batch, splits=tuple(splits.split(",")) if splits else (),
        captions_only=captions_only, validation=validation,
    )  # fmt: skip
    if found is None:
        return  # another process of the same start prints
    if json:
        print_json(found)
    else:
        print(f"league: {write or out / 'league.md'}")


@app.command("pages", epilog=epilog("study pages"))
def pages(
    folders: Annotated[
        list[Path], typer.Argument(metavar="LEAGUE…", help="Folders of leagues, the shipped model's first.")
    ],
    results: Annotated[Path | None, typer.Option("--results", help="Page of the first league's tables.")] = None,
    route: Annotated[Path | None, typer.Option("--route", help="Page of RouteGain's rows over all leagues.")] = None,
    effect: Annotated[Path | None, typer.Option("--effect", help="Page of the goal over all leagues.")] = None,
    field: Annotated[Path | None, typer.Option("--field", help="Page of every setting over all leagues.")] = None,
    times: Annotated[
        list[Path] | None,
        typer.Option("--times", help="What bench captions --json printed, for the goal; may be given several times."),
    ] = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Fill in the blocks of pages from leagues that were played. No model runs: --seed and --device change nothing."""
    from vlm_app.studies.league.pages import write_pages

    pages = {"results": results, "route": route, "effect": effect, "field": field}
    written = {name: str(page) for name, page in pages.items() if page is not None}
    if not written:
        raise typer.BadParameter("no page to fill in: name one with --results, --route, --effect or --field")
    write_pages(folders, results=results, route=route, effect=effect, field=field, times=times or ())
    if json:
        print_json(written)
    else:
        print(f"pages: {', '.join(written.values())}")


@app.command("chart", epilog=epilog("study chart"))
def chart(
    results: Annotated[Path, typer.Argument(help="Page of the league's tables, as `study pages` fills it in.")],
    out: Annotated[Path, typer.Argument(help="File that the web page draws its chart from.")],
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write what the web page shows of every setting. No model runs: --seed and --device change nothing."""
    from vlm_app.studies.league.chart import write_chart

    found = write_chart(results, out)
    if json:
        print_json(found)
    else:
        print(f"chart: {out} ({len(found['settings'])} settings)")
