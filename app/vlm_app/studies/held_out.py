"""The main job: caption held-out scenes plain and mitigated, ask POPE both ways, print the paired table, report.

vlm-heads study held-out --out demo-report
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlm_app.console import remark
from vlm_app.studies.chosen import CAPTIONS, QUESTIONS

PROTOCOL = "world-held-out"
METRICS = (CAPTIONS, QUESTIONS)


def held_out(
    out: Path,
    *,
    captions: int,
    questioned: int,
    words: Sequence[str],
    model: str,
    seed: int,
    device: str | None,
    json: bool,
) -> None:
    """Compare a model with and without interventions on held-out scenes of the embedded world, and print the report.

    Args:
        out: folder of the report; started again it goes on.
        captions: scenes to caption.
        questioned: scenes to ask questions about.
        words: the mitigation, as on the command line.
        model: what `load_vlm` takes.
        seed: draws the scenes and the resamples.
        device: of the model; a GPU by default if there is one.
        json: print the report as JSON.
    """
    from vlm_evals.answer import Asking, Processes
    from vlm_evals.arms import arms_of
    from vlm_evals.experiment import ask_arms, choose_protocol, find_data
    from vlm_evals.harm import keep_harm
    from vlm_evals.scored import pair_report, score_run
    from vlm_evals.tasks import asked_of

    from vlm_app.console import progress, publish
    from vlm_app.models import load_vlm, parse_mitigations

    processes = Processes.current(device)
    arms = arms_of(parse_mitigations(words), paired=True)
    limits = dict(zip(METRICS, (captions, questioned), strict=True))
    most = max(limits.values())
    data = find_data(PROTOCOL, CAPTIONS, None, out, limit=most, seed=seed, processes=processes, progress=progress)
    asking = Asking(load_vlm(model, device, seed))
    for metric, limit in limits.items():
        protocol = choose_protocol(PROTOCOL, metric, data, limit=limit, seed=seed)
        if processes.first:
            remark(f"{metric}: {limit} held-out scenes, plain and with {', '.join(words)}")
        here = replace(asking, batch_size=2 * asked_of(metric).batch_size)
        ask_arms(here, protocol, data, arms, out / metric, processes=processes, progress=progress)
    if processes.first:
        keep_harm(out / CAPTIONS / arms[1].name, asking, arms[1].mitigation)
        plain, mitigated = ([score_run(out / metric / arm.name) for metric in METRICS] for arm in arms)
        publish(pair_report(plain, mitigated, seed=seed), out, json)
