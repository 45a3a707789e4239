"""The `vlm-heads` command: names the subcommands and runs the one that was asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from vlm_app.commands import bench, calibrate, compare, demo, describe, doctor, evaluate, fold, judge, score, world
from vlm_app.mistakes import run_app

app = typer.Typer(
    name="vlm-heads",
    help="Make a vision-language model hallucinate less: find the attention heads that look at the image, "
    "and give them and the image the weight they lost.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("describe")(describe.describe)
app.command("score")(score.score)
app.add_typer(evaluate.app, name="eval")
app.add_typer(judge.app, name="judge")
app.command("compare")(compare.compare)
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)
app.command("calibrate")(calibrate.calibrate)
app.command("fold")(fold.fold)
app.command("demo")(demo.demo)
app.add_typer(world.app, name="world")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    run_app(app, given or ["--help"])


if __name__ == "__main__":
    main()
