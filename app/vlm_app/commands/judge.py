"""`vlm-heads judge NAME`: score somebody's saved answers; no model and no torch."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vlm_app.commands.by_metric import (
    Command,
    MetricGroup,
    argument_parameter,
    option_parameters,
    parameters_of,
    shaped,
)
from vlm_app.console import print_json, print_table, remark
from vlm_app.mistakes import require_place
from vlm_app.options import DEFAULT_SEED, Device, Json, Seed

if TYPE_CHECKING:
    from vlm_evals.metric import Metric

NOTHING_RUNS = "Nothing is drawn and no model runs: --seed and --device change nothing."


def judge(
    metric: "Metric", *, json: Json = False, seed: Seed = DEFAULT_SEED, device: Device = None, **given: Any
) -> None:
    """Score saved answers with a metric.

    Args:
        metric: what they are scored with.
        json, seed, device: see `--help`.
        **given: the file and the metric's own options, by name.
    """
    from vlm_evals.judge import judge

    for option in metric.judging.options:
        if option.written:
            require_place(given.get(option.name))
    file = given.pop(metric.judging.file.name)
    found = judge(metric.name, file, **given)
    if json:
        print_json(found)
        return
    _print(metric, found, _title(metric, [file] if isinstance(file, Path) else file, found))


def _title(metric: "Metric", files: list[Path], found: dict[str, Any]) -> str:
    """Return what was scored, and how answers were read where there is a choice."""
    chosen = [option.name for option in metric.judging.options if option.choices]
    said = [f"{name} {found[name]}" for name in chosen if isinstance(found.get(name), str)]
    return ", ".join([f"{metric.title} of {', '.join(file.name for file in files)}", *said])


def _print(metric: "Metric", found: dict[str, Any], title: str) -> None:
    from vlm_evals.reports.tables import cells, columns, label_tables, split_tables

    for alert in found.get("alerts", ()):
        print(alert)
    splits = found.get("splits", {})
    names = dict.fromkeys([*metric.labels, *metric.figures(list(splits))])
    rows = [(metric.label(name), *cells(metric, name, found)) for name in names if name in found]
    print_table(title, ("metric", *columns(metric, found)), rows)
    for table in [*split_tables(metric, found), *label_tables(metric, found)]:
        print_table(table.title, table.header, table.rows)
    for name, reason in found.get("undefined", {}).items():
        remark(f"{metric.label(name)} is undefined: {reason}")
    for note in found.get("notes", ()):
        remark(note)


class JudgeGroup(MetricGroup):
    """`vlm-heads judge`."""

    def offered(self, metric: "Metric") -> bool:
        """Every metric scores saved answers."""
        return True

    def command_for(self, metric: "Metric") -> Command:
        """Return the command of a metric: its file, its own options, and those that every command has."""
        judging = metric.judging
        own = [argument_parameter(judging.file), *option_parameters(judging.options)]
        listed = [*own, *parameters_of(judge).values()]
        return shaped(partial(judge, metric), listed, f"{judging.help} {NOTHING_RUNS}")


app = typer.Typer(cls=JudgeGroup, help="Score somebody's saved captions or answers; needs no model and no torch.")
