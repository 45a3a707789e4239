"""Reports of run directories: written beside them and printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_evals.report import write_report
from vlm_evals.reports.tables import headline, tables
from vlm_evals.runs import RunError
from vlm_evals.scored import ScoredRun, pair_report, run_report, score_run, write_exchange

from vlm_app.console import print_json, print_table


def compare_runs(plain: Path, mitigated: Path, *, seed: int) -> dict[str, Any]:
    """Return the paired report of two run directories; of a paired evaluation the mitigated arm is taken."""
    return pair_report([score_run(_arm(plain))], [score_run(_arm(mitigated))], seed=seed)


def _arm(folder: Path) -> Path:
    if not (folder / "protocol.json").is_file() and (folder / "mitigated" / "protocol.json").is_file():
        return folder / "mitigated"
    if not folder.is_dir():
        raise RunError(f"no run directory {folder}: give what `vlm-heads eval --out` wrote")
    return folder


def evaluation_report(out: Path, names: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """Return the report of an evaluation from its arms.

    Args:
        out: the evaluation's folder.
        names: arm name -> end-of-text bias, in the order they were asked; the empty name alone for a single run.
        seed: of the bootstrap.
    """
    runs: dict[str, ScoredRun] = {name: score_run(out / name) for name in names}
    for name, run in runs.items():
        write_exchange(out / name, run)
    if "" in runs:
        return run_report(runs[""])
    curve = {bias: runs[name] for name, bias in names.items() if bias}
    controls = {name: run for name, run in runs.items() if name not in ("plain", "mitigated") and not names[name]}
    return pair_report([runs["plain"]], [runs["mitigated"]], curve=curve, controls=controls, seed=seed)


def publish(report: Mapping[str, Any], out: Path | None, json: bool) -> None:
    """Write a report where a folder is given, and print it."""
    written = write_report(out, report) if out is not None else []
    if json:
        print_json(report)
        return
    print(headline(report))
    for table in tables(report):
        print_table(table.title, table.header, table.rows)
    if report["failures"]:
        print(f"{len(report['failures'])} samples were not answered")
    if written:
        print(f"report: {written[1]} ({', '.join(path.name for path in written if path != written[1])} beside it)")
