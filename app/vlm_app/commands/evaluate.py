"""`vlm-heads eval`: ask a model, score its answers, report; started again it goes on where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vlm_app.options import DEFAULT_MODEL, DEFAULT_SEED, Device, Json, Model, Profile, Seed, With

app = typer.Typer(help="Ask a model, score its answers and write a report; started again it goes on where it stopped.")

Data = Annotated[
    Path | None, typer.Option("--data", help="A folder with COCO's pictures and annotations, for the protocol coco.")
]
ProtocolName = Annotated[
    str | None,
    typer.Option("--protocol", help="world-held-out, world-shifted, world-scrambled, coco, or a protocol file."),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Of the embedded world: held-out, validation, shifted or scrambled; a short protocol."
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", "-n", help="Images to draw with the seed.")]
Paired = Annotated[bool, typer.Option("--paired", help="Ask the plain model too, and compare.")]
Controls = Annotated[
    bool, typer.Option("--controls", help="Also the same gain on the least vision-aware and on random heads.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run directory; by default one below runs/.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Samples in one generation.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Tokens an answer may have.")]
Beams = Annotated[int | None, typer.Option("--beams", min=1, help="Beams of the search; greedy by default.")]
MaxFailures = Annotated[int, typer.Option("--max-failures", min=0, help="Unreadable images after which to give up.")]


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, beside the metric's own options."""

    model: str
    words: list[str] | None
    profile: Path | None
    data: Path | None
    protocol: str | None
    limit: int | None
    paired: bool
    controls: bool
    out: Path | None
    batch_size: int
    max_failures: int
    seed: int
    device: str | None
    json: bool
    split: str | None = None
    curve: bool = False

    @property
    def protocol_name(self) -> str:
        """The protocol, by its own name or by the split of the embedded world that it asks about.

        Raises:
            TaskError: if both are named, or the split is asked for beside pictures of one's own.
        """
        from vlm_evals.data.coco import TaskError

        if self.split is None:
            return self.protocol or ("world-held-out" if self.data is None else "coco")
        if self.protocol is not None:
            raise TaskError("--split and --protocol both say what is asked: leave one out")
        return f"world-{self.split}"


@app.command("chair")
def chair(
    model: Model = DEFAULT_MODEL,
    words: With = None,
    profile: Profile = None,
    data: Data = None,
    protocol: ProtocolName = None,
    split: Split = None,
    limit: Limit = None,
    paired: Paired = False,
    curve: Annotated[
        bool, typer.Option("--curve", help="Also the plain model at several end-of-text biases: equal recall.")
    ] = False,
    controls: Controls = False,
    out: Out = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="In place of the protocol's.")] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", help="chair-2018 or chair-opera.")] = None,
    vocabulary: Annotated[str | None, typer.Option("--vocabulary", help="published or corrected.")] = None,
    max_tokens: MaxTokens = None,
    beams: Beams = None,
    batch_size: BatchSize = 16,
    max_failures: MaxFailures = 20,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Caption images and count the objects that are not there."""
    changes = {"prompt": prompt, "pipeline": pipeline, "vocabulary": vocabulary, "max_new_tokens": max_tokens}
    request = Request(
        model, words, profile, data, protocol, limit, paired, controls, out, batch_size, max_failures, seed, device,
        json, split, curve,
    )  # fmt: skip
    _evaluate("chair", request, beams, changes)


@app.command("pope")
def pope(
    model: Model = DEFAULT_MODEL,
    words: With = None,
    profile: Profile = None,
    data: Data = None,
    protocol: ProtocolName = None,
    split: Split = None,
    limit: Limit = None,
    paired: Paired = False,
    controls: Controls = False,
    out: Out = None,
    parser: Annotated[str | None, typer.Option("--parser", help="strict-neither, pope, opera or vcd.")] = None,
    max_tokens: MaxTokens = None,
    beams: Beams = None,
    batch_size: BatchSize = 32,
    max_failures: MaxFailures = 20,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Ask whether objects are in images, half of them not there."""
    request = Request(
        model,
        words,
        profile,
        data,
        protocol,
        limit,
        paired,
        controls,
        out,
        batch_size,
        max_failures,
        seed,
        device,
        json,
        split,
    )
    _evaluate("pope", request, beams, {"parser": parser, "max_new_tokens": max_tokens})


def _evaluate(metric: Any, request: Request, beams: int | None, stated: dict[str, Any]) -> None:
    from vlm_evals.answer import Asking, Processes

    from vlm_app.experiment import arms_of, ask_arms, choose_protocol, find_data
    from vlm_app.models import load_profile, load_vlm, parse_mitigations
    from vlm_app.reports import evaluation_report, publish

    changes = {name: value for name, value in stated.items() if value is not None}
    if beams is not None:
        changes["decoding"] = {"do_sample": False, "num_beams": beams}
    name = request.protocol_name
    arms = arms_of(
        parse_mitigations(request.words), paired=request.paired, curve=request.curve, controls=request.controls
    )
    _check_words(metric, changes)
    place = Processes.current(request.device)
    out = request.out or Path("runs") / f"{metric}-{Path(name).stem}"
    data = find_data(name, metric, request.data, out, limit=request.limit, seed=request.seed, place=place)
    protocol = choose_protocol(name, metric, data, limit=request.limit, seed=request.seed, **changes)
    vlm = load_vlm(request.model, request.device, request.seed)
    asking = Asking(
        vlm, profile=load_profile(request.profile), batch_size=request.batch_size, max_failures=request.max_failures
    )
    ask_arms(asking, protocol, data, arms, out, place)
    if place.first:
        report = evaluation_report(out, {arm.name: arm.end_bias for arm in arms}, seed=protocol.seed)
        publish(report, out, request.json)


def _check_words(metric: str, changes: dict[str, Any]) -> None:
    """Refuse an unknown pipeline, vocabulary or parser before any model is loaded.

    Raises:
        EvaluationError: naming the known ones.
    """
    from vlm_evals.metrics.pope import parse_answer
    from vlm_evals.text.objects import ObjectFinder

    if metric == "chair":
        ObjectFinder(changes.get("pipeline", "chair-2018"), changes.get("vocabulary", "published"))
    else:
        parse_answer("yes", parser=changes.get("parser", "strict-neither"), label="yes")
