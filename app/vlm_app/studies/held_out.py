"""The main job: caption held-out scenes plain and with VHR, ask POPE both ways, print the paired table, report.

python -m vlm_app.studies.held_out --out demo-report
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vlm_app.console import remark
from vlm_app.mistakes import run_app
from vlm_app.options import DEFAULT_MODEL, DEFAULT_SEED, Device, Json, Model, Seed, With
from vlm_app.studies.chosen import CAPTIONS, QUESTIONS

PROTOCOL = "world-held-out"
METRICS = (CAPTIONS, QUESTIONS)


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
    from vlm_evals.experiment import arms_of, ask_arms, choose_protocol, find_data
    from vlm_evals.scored import pair_report, score_run
    from vlm_evals.tasks import asked_of

    from vlm_app.console import progress, publish
    from vlm_app.models import load_vlm, parse_mitigations

    processes = Processes.current(device)
    arms = arms_of(parse_mitigations(words or ["vhr"]), paired=True)
    limits = dict(zip(METRICS, (captions, questioned), strict=True))
    most = max(limits.values())
    data = find_data(PROTOCOL, CAPTIONS, None, out, limit=most, seed=seed, processes=processes, progress=progress)
    asking = Asking(load_vlm(model, device, seed))
    for metric, limit in limits.items():
        protocol = choose_protocol(PROTOCOL, metric, data, limit=limit, seed=seed)
        if processes.first:
            remark(f"{metric}: {limit} held-out scenes, plain and with {', '.join(words or ['vhr'])}")
        here = replace(asking, batch_size=2 * asked_of(metric).batch_size)
        ask_arms(here, protocol, data, arms, out / metric, processes=processes, progress=progress)
    if processes.first:
        plain, mitigated = ([score_run(out / metric / arm.name) for metric in METRICS] for arm in arms)
        publish(pair_report(plain, mitigated, seed=seed), out, json)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(held_out)
    run_app(app)
