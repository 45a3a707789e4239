"""`vlm-heads eval NAME`: ask a model, score its answers, report; started again it goes on where it stopped."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_app.commands.by_metric import Command, MetricGroup, option_parameters, parameters_of, shaped
from vlm_app.endpoint import named_server
from vlm_app.options import (
    DEFAULT_MODEL,
    DEFAULT_SEED,
    AllowMissing,
    Concurrency,
    Device,
    EndpointUrl,
    Json,
    KeyFrom,
    Model,
    Profile,
    Seed,
    ServedModel,
    Timeout,
    With,
)

if TYPE_CHECKING:
    from vlm_evals.arms import Arm
    from vlm_evals.metric import Asked, Metric


Data = Annotated[
    Path | None, typer.Option("--data", help="A folder with COCO's pictures and annotations, for the protocol coco.")
]
ProtocolName = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="world-held-out, world-shifted, world-scrambled, coco, opera-500, pope-500, or a protocol file: a run's "
        "protocol.json, which can be shared and is checked by its hash.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Of the embedded world: held-out, validation, shifted or scrambled; a short protocol."
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", "-n", help="Images to draw with the seed.")]
Paired = Annotated[bool, typer.Option("--paired", help="Ask the plain model too, and compare.")]
CurveToo = Annotated[
    bool, typer.Option("--curve", help="Also the plain model at several end-of-text biases: equal recall.")
]
Controls = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Also the controls that fit: other heads; of askback other words; a prompt that asks for yes or no; a "
        "mask alone; a first word.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Run directory; by default one below runs/.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Samples in one generation.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Tokens an answer may have.")]
Beams = Annotated[int | None, typer.Option("--beams", min=1, help="Beams of the search; greedy by default.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", min=0.01, help="Sample at this temperature; greedy by default.")
]
MaxFailures = Annotated[
    int, typer.Option("--max-failures", min=0, help="Samples without an answer after which to give up.")
]


def evaluate(
    metric: "Metric",
    *,
    model: Model = DEFAULT_MODEL,
    words: With = None,
    profile: Profile = None,
    data: Data = None,
    protocol: ProtocolName = None,
    split: Split = None,
    limit: Limit = None,
    paired: Paired = False,
    curve: CurveToo = False,
    controls: Controls = False,
    out: Out = None,
    max_tokens: MaxTokens = None,
    beams: Beams = None,
    temperature: Temperature = None,
    batch_size: BatchSize = 16,
    max_failures: MaxFailures = 20,
    endpoint: EndpointUrl = None,
    served_model: ServedModel = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 600.0,
    key_from: KeyFrom = None,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    allow_missing: AllowMissing = False,
    json: Json = False,
    **own: Any,
) -> None:
    """Ask a model what a metric asks, score its answers and report.

    Args:
        metric: what is measured.
        **own: the metric's own options by name; each is an entry of the protocol, or names files. The
            rest is told by `--help`.
    """
    from vlm_evals.tasks import asked_of, require_data

    from vlm_app.console import loading, progress, publish, remark
    from vlm_app.mistakes import require_place
    from vlm_app.models import load_vlm, look_first, parse_mitigations, say_tuned_elsewhere

    asked = asked_of(metric.name)
    require_place(out, "folder")
    look_first(model=model, device=device, words=words, profile=profile)
    server = named_server(endpoint, served_model, model, key_from, concurrency, timeout)
    name = _protocol_name(asked, protocol, split, data)
    require_data(name, metric.name, data, limit=limit)
    files = {one.name: own.pop(one.name) for one in asked.files}
    entries = _entries(asked, {**own, "max_new_tokens": max_tokens, "decoding": _decoding(beams, temperature)})
    loading(model if server is None else server.url)
    from vlm_evals.answer import Asking, Processes
    from vlm_evals.arms import arms_of, decoding_controls
    from vlm_evals.endpoint.asking import Asker, EndpointAsking
    from vlm_evals.experiment import ask_arms, choose_protocol, find_data, notes_on, notes_on_check
    from vlm_evals.harm import keep_harm
    from vlm_evals.reports.pairs import MITIGATED
    from vlm_evals.scored import evaluation_report
    from vlm_evals.tasks import samples

    mitigation = parse_mitigations(words, profile)
    arms = arms_of(mitigation, paired=paired, curve=curve, controls=controls, fitting=asked.controls)
    if server is not None:
        arms = _askable(arms)
    processes = Processes.current(device)
    out = out or Path("runs") / f"{metric.name}-{Path(name).stem}"
    folder = find_data(name, metric.name, data, out, limit=limit, seed=seed, processes=processes, progress=progress)
    folder = asked.beside(folder, {**own, **files})
    bound = choose_protocol(name, metric.name, folder, limit=limit, seed=seed, **entries)
    arms += decoding_controls(arms, bound.decoding) if controls else []
    notes = notes_on(name, folder)
    for note in [*notes, *notes_on_check(mitigation, samples(bound, folder))] if processes.first else ():
        remark(note)
    asking: Asker
    if server is None:
        vlm = load_vlm(model, device, seed, allow_missing=allow_missing)
        if processes.first:
            say_tuned_elsewhere(words, vlm)
        asking = Asking(vlm, batch_size=batch_size, max_failures=max_failures)
    else:
        asking = EndpointAsking.find(server, served_model, max_failures=max_failures)
        for arm in arms:  # what a server cannot be asked for is told before the first question
            arm.asking(asking, out)
    ask_arms(asking, bound, folder, arms, out, processes=processes, notes=notes, progress=progress)
    if processes.first:
        method = next((arm for arm in arms if arm.name == MITIGATED), None)
        if method is not None and isinstance(asking, Asking):  # a server cannot be read so
            keep_harm(out / MITIGATED, asking, method.mitigation)
        publish(evaluation_report(out, {arm.name: arm.end_bias for arm in arms}, seed=bound.seed), out, json)


def _askable(arms: "list[Arm]") -> "list[Arm]":
    """Return the arms that a server can be asked for, and say which it cannot."""
    from vlm_app.console import remark

    if left := [arm.name for arm in arms if arm.first_word]:
        remark(f"left out, for a server biases no first word: {', '.join(left)}")
    return [arm for arm in arms if not arm.first_word]


def _protocol_name(asked: "Asked", protocol: str | None, split: str | None, data: Path | None) -> str:
    """Return the protocol, by its own name or by the split of the embedded world that it asks about.

    Raises:
        TaskError: if both are named, or the split is asked for beside pictures of one's own.
    """
    from vlm_evals.errors import TaskError

    if split is None:
        return protocol or asked.own_protocol or ("world-held-out" if data is None else "coco")
    if protocol is not None:
        raise TaskError("--split and --protocol both say what is asked: leave one out")
    return f"world-{split}"


def _decoding(beams: int | None, temperature: float | None) -> dict[str, Any] | None:
    """Return arguments of `generate`; None where neither is given.

    Raises:
        TaskError: if both are.
    """
    from vlm_evals.errors import TaskError
    from vlm_evals.protocol import sampling

    if beams is not None and temperature is not None:
        raise TaskError("--beams searches and --temperature samples: leave one out")
    if temperature is not None:
        return sampling(temperature)
    return None if beams is None else {"do_sample": False, "num_beams": beams}


def _entries(asked: "Asked", stated: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of the protocol that were stated, checked before any model is loaded.

    Raises:
        EvaluationError: naming the known values.
    """
    entries = {name: value for name, value in stated.items() if value is not None}
    for option in asked.options:
        option.check(entries.get(option.name))
    asked.check(entries)
    return entries


class EvalGroup(MetricGroup):
    """`vlm-heads eval`."""

    def offered(self, metric: "Metric") -> bool:
        """Whether a metric asks a model."""
        return metric.asked is not None

    def command_for(self, metric: "Metric") -> Command:
        """Return the command of a metric, with its own options after --out.

        Raises:
            TaskError: if it asks no model.
        """
        from vlm_evals.tasks import asked_of

        asked = asked_of(metric.name)
        shared = parameters_of(evaluate)
        shared["batch_size"] = shared["batch_size"].replace(default=asked.batch_size)
        if metric.curve is None:
            del shared["curve"]
        listed = list(shared.values())
        after = list(shared).index("out") + 1
        listed[after:after] = option_parameters((*asked.options, *asked.files))
        return shaped(partial(evaluate, metric), listed, asked.help)


app = typer.Typer(
    cls=EvalGroup,
    help="Ask a model, score its answers and write a report; started again it goes on where it stopped.",
)
