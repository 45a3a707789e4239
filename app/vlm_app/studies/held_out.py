"""The main job: caption held-out scenes plain and with VHR, ask POPE both ways, print the paired table, report.

python -m vlm_app.studies.held_out --out demo-report
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from vlm_evals.tasks import Metric

from vlm_app.console import remark
from vlm_app.mistakes import run_app
from vlm_app.options import DEFAULT_MODEL, DEFAULT_SEED, Device, Json, Model, Seed, With

PROTOCOL = "world-held-out"
METRICS: tuple[Metric, ...] = ("chair", "pope")


def held_out(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report; started again it goes on.")] = Path(
        "demo-report"
    ),
    captions: Annotated[int, typer.Option("--captions", min=1, help="Scenes to caption.")] = 500,
    questioned: Annotated[int, typer.Option("--questioned", min=1, help="Scenes to ask questions about.")] = 150,
    words: With = None,
    model: Model = DEFAULT_MODEL,
    seed: Seed = DEFAULT_SEED,
    device: Device = None,
    json: Json = False,
) -> None:
    """Compare a model with and without an intervention on held-out scenes of the embedded world."""
    from vlm_evals.answer import Asking, Processes
    from vlm_evals.scored import pair_report, score_run

    from vlm_app.experiment import arms_of, ask_arms, choose_protocol, find_data
    from vlm_app.models import load_vlm, parse_mitigations
    from vlm_app.reports import publish

    place = Processes.current(device)
    arms = arms_of(parse_mitigations(words or ["vhr"]), paired=True)
    limits = dict(zip(METRICS, (captions, questioned), strict=True))
    data = find_data(PROTOCOL, "chair", None, out, limit=max(limits.values()), seed=seed, place=place)
    asking = Asking(load_vlm(model, device, seed))
    for metric, limit in limits.items():
        protocol = choose_protocol(PROTOCOL, metric, data, limit=limit, seed=seed)
        if place.first:
            remark(f"{metric}: {limit} held-out scenes, plain and with {', '.join(words or ['vhr'])}")
        batch = 32 if metric == "chair" else 64
        ask_arms(replace(asking, batch_size=batch), protocol, data, arms, out / metric, place)
    if place.first:
        plain, mitigated = ([score_run(out / metric / arm.name) for metric in METRICS] for arm in arms)
        publish(pair_report(plain, mitigated, seed=seed), out, json)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(held_out)
    run_app(app)
