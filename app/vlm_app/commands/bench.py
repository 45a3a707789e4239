"""`vlm-heads bench`: how fast things are here, beside what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_app.commands.bench_gpu import gpu
from vlm_app.console import loading, print_json, print_table, progress, remark
from vlm_app.examples import epilog
from vlm_app.mistakes import UsageError
from vlm_app.options import (
    DEFAULT_MODEL,
    DEFAULT_SEED,
    Concurrency,
    Device,
    EndpointUrl,
    Json,
    KeyFrom,
    Model,
    Seed,
    ServedModel,
    Timeout,
    With,
)

if TYPE_CHECKING:
    from vlm_heads import Mitigation

app = typer.Typer(help="How fast things are on this machine.", invoke_without_command=True)
app.command("gpu", epilog=epilog("bench gpu"))(gpu)

DTYPES = ("float32", "bfloat16", "float16")
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="How often each way is timed.")]
Tokens = Annotated[int, typer.Option("--tokens", min=1, help="Tokens to decode.")]
Random = Annotated[bool, typer.Option("--random", help="Random weights of the size that --config names.")]
Config = Annotated[
    str, typer.Option("--config", help="With --random: 300m, llava-1.5-7b, llava-1.5-13b or qwen2.5-vl-7b.")
]


@app.callback()
def bench(context: typer.Context, seed: Seed = DEFAULT_SEED, device: Device = None, json: Json = False) -> None:
    """Time attention kernels and generation, where no subcommand is given."""
    if context.invoked_subcommand is not None:
        return
    rows, generation = _kernels(device, "float32", 2.0), _generation(DEFAULT_MODEL, device, seed)
    if json:
        print_json({"kernels": rows, "generate": generation})
        return
    _print_kernels(rows)
    _print_generation(generation)


@app.command("kernel", epilog=epilog("bench kernel"))
def kernel(
    dtype: Dtype = "float32",
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="How long each shape is timed.")] = 4.0,
    shape: Annotated[str, typer.Option("--shape", help="Part of a shape's name, such as 7B; all by default.")] = "",
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Time edited attention on shapes of real models beside stock attention and the floor, each way checked first."""
    rows = _kernels(device, dtype, seconds, shape)
    if json:
        print_json(rows)
    else:
        _print_kernels(rows)


@app.command("generate", epilog=epilog("bench generate"))
def generate(
    model: Model = DEFAULT_MODEL,
    random: Random = False,
    config: Config = "300m",
    dtype: Dtype = "float32",
    words: With = None,
    tokens: Tokens = 64,
    rounds: Rounds = 5,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Time prefill and decode: plain, eager, and what --with names.

    Without --with these are VHR, VAR, both, VCD, M3ID and branch. VAR then runs with settings under which it finds
    sinks on any model, so that it has work to do. A contrast is timed both ways: its second stream in the first one's
    forwards, and in forwards of its own.
    """
    found = _generation(
        model, device, seed, config=config if random else None, dtype=dtype, words=words, tokens=tokens, rounds=rounds
    )
    if json:
        print_json(found)
    else:
        _print_generation(found)


@app.command("captions", epilog=epilog("bench captions"))
def captions(
    model: Model = DEFAULT_MODEL,
    words: With = None,
    count: Annotated[int, typer.Option("--captions", min=1, help="Scenes that are captioned.")] = 48,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Captions in one generation.")] = 16,
    limit: Annotated[int, typer.Option("--tokens", min=1, help="Most tokens of a caption.")] = 128,
    rounds: Rounds = 3,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Time whole captions of scenes of the embedded world, plain and under what each --with names, taking turns.

    Methods that act together are named in one --with, as in --with 'vhr askback'. A method's own questions, drafts and
    extra passes count, so this is what an answer costs who waits for it.
    """
    from vlm_app.models import load_vlm, look_first, parse_mitigations, single_words

    if not words:
        raise typer.BadParameter("nothing to time beside plain: name it in --with, such as askback")
    together = {word: single_words([word]) for word in words}
    look_first(model=model, device=device, words=[one for several in together.values() for one in several])
    named = {word: parse_mitigations(several) for word, several in together.items()}
    loading(model)
    from vlm_app.speed.captions import time_captions
    from vlm_app.speed.timing import clock_of

    vlm = load_vlm(model, device, seed)
    ways = time_captions(vlm, named, captions=count, batch=batch, rounds=rounds, limit=limit, seed=seed)
    clock = "process time" if clock_of(vlm) is process_time else "wall time"
    if json:
        settings = {"clock": clock, "captions": count, "batch": batch, "rounds": rounds}
        print_json({"model": vlm.name, "device": str(vlm.device), **settings, "ways": ways})
        return
    rows = [
        (name, f"{1000 * row['seconds']:.1f}", f"{row['ratio']:.2f}", _turns(row), f"{row['tokens']:.1f}")
        for name, row in ways.items()
    ]
    header = ("", "a caption, ms", "× plain", "turns", "tokens")
    print_table(
        f"{vlm.name} on {vlm.device}, {clock}, {count} captions, {batch} at once, {rounds} rounds", header, rows
    )


def _turns(row: Mapping[str, float]) -> str:
    return f"{row['ratio_least']:.2f} to {row['ratio_most']:.2f}"


@app.command("client", epilog=epilog("bench client"))
def client(
    endpoint: EndpointUrl = None,
    served_model: ServedModel = None,
    concurrency: Concurrency = 64,
    requests: Annotated[int, typer.Option("--requests", min=1, help="How many are counted.")] = 1000,
    timeout: Timeout = 600.0,
    key_from: KeyFrom = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure what asking a server costs this machine: processor time of the client for each request.

    Without --endpoint the planted model is served in a process of its own.
    """
    from contextlib import nullcontext

    from vlm_evals.endpoint.asking import EndpointAsking

    from vlm_app.endpoint import named_server
    from vlm_app.speed.client import measure, own_server

    with nullcontext(endpoint) if endpoint is not None else own_server("planted", concurrency) as url:
        server = named_server(url, served_model, DEFAULT_MODEL, key_from, concurrency, timeout)
        assert server is not None  # it was named
        found = measure(EndpointAsking.find(server, served_model), requests)
    if json:
        print_json(asdict(found))
        return
    header = ("requests", "at once", "processor, ms a request", "s in all", "median, ms", "1 in 100 above, ms")
    counted = (str(found.requests), str(found.concurrency))
    times = (found.processor_ms, found.seconds, found.median_ms, found.slowest_ms)
    print_table("Asking a server", header, [(*counted, *(f"{one:.2f}" for one in times))])


@app.command("cost", epilog=epilog("bench cost"))
def cost(
    model: Model = DEFAULT_MODEL,
    tokens: Tokens = 24,
    rounds: Rounds = 7,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Check the cost card of `doctor --cost` against whole generations at batch 1, 8 and 32."""
    from vlm_app.models import load_vlm, look_first

    look_first(model=model, device=device)
    loading(model)
    from vlm_app.speed.cost import check_costs, predict_costs

    vlm = load_vlm(model, device, seed)
    checked = check_costs(vlm, predict_costs(vlm, rounds=rounds), tokens=tokens, rounds=rounds)
    if json:
        print_json(checked)
        return
    header = ("intervention", "batch", "prefill, predicted", "measured", "token, predicted", "measured", "within 25 %")
    names = ("prefill_predicted", "prefill_measured", "token_predicted", "token_measured")
    rows = [
        (row["name"], str(row["batch"]), *(f"{row[name]:.2f}" for name in names), "yes" if row["within"] else "no")
        for row in checked
    ]
    print_table(f"{model}: times over plain, predicted and measured", header, rows)


def _kernels(device: str | None, dtype: str, seconds: float, part: str = "") -> list[dict[str, Any]]:
    from vlm_kernels.bench import SHAPES, measure

    from vlm_app.models import chosen_device

    kind = _dtype(dtype)
    shapes = [shape for shape in SHAPES if part in shape.name]
    if not shapes:
        raise UsageError(f"no shape is called {part!r}: there are {', '.join(shape.name for shape in SHAPES)}")
    where = chosen_device(device)
    rows = []
    with progress("timing kernels", len(shapes)) as advance:
        for shape in shapes:
            rows += [asdict(row) for row in measure([shape], device=where, dtype=kind, seconds=seconds)]
            advance(1)
    return rows


def _print_kernels(rows: Sequence[dict[str, Any]]) -> None:
    header = ("shape", "phase", "way", "ms", "± share", "× stock", "share of floor", "first call, ms")
    names = ("ms", "spread", "ratio", "floor_share", "first_ms")
    lines = [
        (row["shape"], row["phase"], row["way"], *(_figure(row[name], row["wrong"]) for name in names)) for row in rows
    ]
    print_table("Attention, each way checked against the float64 specification first", header, lines)


def _figure(value: float | None, wrong: str) -> str:
    return f"wrong: {wrong}" if value is None else f"{value:.3g}"


def _generation(
    model: str,
    device: str | None,
    seed: int,
    *,
    config: str | None = None,
    dtype: str = "float32",
    words: Sequence[str] | None = None,
    tokens: int = 64,
    rounds: int = 5,
) -> dict[str, Any]:
    from vlm_app.models import chosen_device, load_vlm, look_first

    look_first(model=None if config else model, device=device, words=words)
    loading(config or model)
    from vlm_app.speed.timing import clock_of, random_llava, time_generation
    from vlm_app.speed.usual import usual_methods

    named = _named(words) if words else None
    vlm = random_llava(config, _dtype(dtype)) if config else load_vlm(model, device, seed)
    vlm.model.to(chosen_device(device))
    ways = time_generation(vlm, usual_methods(vlm) if named is None else named, tokens=tokens, rounds=rounds)
    clock = "process time" if clock_of(vlm) is process_time else "wall time"
    settings = {"clock": clock, "tokens": tokens, "rounds": rounds}
    return {"model": vlm.name, "device": str(vlm.device), **settings, "ways": ways}


def _named(words: Sequence[str]) -> dict[str, Mitigation]:
    """Return each method that words name, and all of them together where they can be.

    Raises:
        UsageError: for a contrast that `attach` cannot add by itself.
    """
    from vlm_app.models import parse_mitigations

    named = {word: parse_mitigations([word]) for word in words}
    contrasts = [one.contrast for one in named.values() if one.contrast is not None]
    for contrast in contrasts:
        if not contrast.needs_inputs_alone:
            raise UsageError(
                f"--with {contrast.name}: its second stream is made from the image and the prompt, and what is timed "
                "here is generate() alone; time vcd, m3id, pai-contrast or branch"
            )
    if checks := [one.check for one in named.values() if one.check is not None]:
        name = checks[0].name
        raise UsageError(
            f"--with {name}: it drafts as many tokens as it needs, and what is timed here is a fixed number of them; "
            f"time it with vlm-heads bench captions --with {name}"
        )
    if len(named) > 1 and len(contrasts) < 2:
        named["all of them"] = parse_mitigations(words)
    return named


def _dtype(name: str) -> Any:
    """Return torch's dtype of a name.

    Raises:
        UsageError: naming the known ones.
    """
    import torch

    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}: choose one of {', '.join(DTYPES)}")
    return getattr(torch, name)


def _print_generation(found: dict[str, Any]) -> None:
    keys = ("prefill_ms", "prefill_ratio", "decode_ms", "decode_ratio", "peak_mb")
    rows = [(name, *(f"{row[key]:.2f}" if key in row else "" for key in keys)) for name, row in found["ways"].items()]
    header = ("", "prefill, ms", "× plain", "decode, ms per token", "× plain", "memory peak, MB")
    print_table(
        f"{found['model']} on {found['device']}, {found['clock']}, median of {found['rounds']} rounds", header, rows
    )


@app.command("judge", epilog=epilog("bench judge"))
def judge(
    process: Annotated[
        bool, typer.Option("--process", help="Time whole calls of vlm-heads instead, beside `python -c pass`.")
    ] = False,
    pipeline: Annotated[
        str, typer.Option("--pipeline", help="chair-2018, or chair-opera beside the published program's steps.")
    ] = "chair-2018",
    file: Annotated[
        Path | None, typer.Option("--file", help="With --process or chair-opera: captions, in place of made ones.")
    ] = None,
    truth: Annotated[Path | None, typer.Option("--truth", help="With --process: the index of their objects.")] = None,
    captions: Annotated[
        int | None, typer.Option("--captions", min=1, help="Made captions to score: 2000, or 500 with --process.")
    ] = None,
    words: Annotated[int, typer.Option("--words", min=1, help="Words in each.")] = 100,
    rounds: Rounds = 5,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Time the scoring of captions, after finding it equal to the reference. No model runs."""
    if process and pipeline != "chair-2018":
        raise typer.BadParameter("--process times chair-2018: leave out --pipeline")
    if process:
        _judge_processes(file, truth, captions=captions, words=words, rounds=rounds, seed=seed, json=json)
        return
    if pipeline == "chair-opera" and not truth:
        _judge_opera(file, captions=captions or 500, words=words, rounds=rounds, seed=seed, json=json)
        return
    if pipeline != "chair-2018":
        raise typer.BadParameter("--pipeline is chair-2018 or chair-opera; chair-opera takes --file, and no --truth")
    if file or truth:
        raise typer.BadParameter("--file and --truth are timed with --process alone: add it, or leave them out")
    from vlm_app.speed.judge import bench_judge

    found = bench_judge(captions or 2000, words=words, seed=seed)
    if json:
        print_json(found)
        return
    rows = [(name.replace("_", " "), _shown(value)) for name, value in found.items() if name != "notes"]
    print_table("CHAIR's judge, one core", ("", ""), rows)
    for note in found["notes"]:
        remark(note)


def _judge_opera(file: Path | None, *, captions: int, words: int, rounds: int, seed: int, json: bool) -> None:
    from random import Random

    from vlm_evals.data.formats import read_captions

    from vlm_app.speed.judge import made_captions
    from vlm_app.speed.opera import bench_opera

    said = made_captions(captions, words, Random(seed)) if file is None else read_captions(file)
    found = bench_opera([one.text for one in said], rounds=rounds)
    if json:
        print_json(found)
        return
    rows = [(name.replace("_", " "), _shown(value)) for name, value in found.items()]
    print_table("chair-opera and the published program's steps, one core", ("", ""), rows)


def _judge_processes(
    file: Path | None, truth: Path | None, *, captions: int | None, words: int, rounds: int, seed: int, json: bool
) -> None:
    from vlm_app.speed.startup import CAPTIONS, bench_processes

    if (file is None) != (truth is None):
        raise typer.BadParameter("--file and --truth belong together: give both, or neither for made captions")
    files = (file, truth) if file and truth else None
    found = bench_processes(files, captions=captions or CAPTIONS, words=words, rounds=rounds, seed=seed)
    if json:
        print_json(found)
        return
    calls = {"python -c pass": {"seconds": found["bare_seconds"], "ratio": 1.0}, **found["calls"]}
    rows = [(name, f"{call['seconds']:.3f}", f"{call['ratio']:.1f}") for name, call in calls.items()]
    title = f"Processor time, captions: {found['captions']}"
    print_table(title, ("", "seconds", "× bare"), rows)


def _shown(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
