"""The `vlm-heads` command: names the subcommands, and imports the one that was asked for."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, NamedTuple, NoReturn

import typer

from vlm_app.examples import epilog
from vlm_app.mistakes import run_app


class Command(NamedTuple):
    """A subcommand: its function or group as `module:name` in `vlm_app.commands`, and its line in the list."""

    place: str
    help: str


COMMANDS = {
    "describe": Command("describe:describe", "Say what is in images, streaming the answer."),
    "askback": Command(
        "askback:askback",
        "Leave out of saved captions what a model, asked about each object, does not stand by; any model's captions.",
    ),
    "score": Command(
        "score:score", "Score every head, by default by how far its output moves when the image is removed."
    ),
    "compare": Command("compare:compare", "Compare runs on the same items; no model runs."),
    "doctor": Command(
        "doctor:doctor",
        "Say what works on a model and why the rest does not: every method generates two tokens.",
    ),
    "methods": Command(
        "methods:methods",
        "Print every method: its paper, cost and options. No model runs: --seed and --device change nothing.",
    ),
    "calibrate": Command(
        "calibrate:calibrate",
        "Choose static gains on one part of the data, measure them on another, and write them if they help.",
    ),
    "tune": Command(
        "tune:tune",
        "Try mitigations on one half of the pictures, measure the best on the other, and write it if it helps.",
    ),
    "fold": Command("fold:fold", "Write a copy of a checkpoint with static gains folded into its output projections."),
    "demo": Command("demo:demo", "Open the web page on 127.0.0.1: what a model looks at, and what mitigation changes."),
    "serve": Command(
        "serve:serve",
        "Serve a model on 127.0.0.1 as OpenAI's chat completions; each request may bring a mitigation of its own.",
    ),
    "eval": Command(
        "evaluate:app",
        "Ask a model, score its answers and write a report; started again it goes on where it stopped.",
    ),
    "judge": Command("judge:app", "Score somebody's saved captions or answers; needs no model and no torch."),
    "bench": Command("bench:app", "How fast things are on this machine."),
    "world": Command(
        "world:app", "The embedded world: scenes in COCO's format, and the training of the models `mini` and `small`."
    ),
    "study": Command("study:app", "The project's own experiments on the embedded world."),
}


def command_line(asked: Collection[str]) -> typer.Typer:
    """Return the command line.

    Args:
        asked: names of the subcommands to import; the others only have their line in the list.
    """
    app = typer.Typer(
        name="vlm-heads",
        help="Make a vision-language model hallucinate less: find the attention heads that look at the image, "
        "and give them and the image the weight they lost.",
        no_args_is_help=False,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_before)
    for name, command in COMMANDS.items():
        if name not in asked:
            app.command(name, help=command.help)(_not_imported)
            continue
        module, _, attribute = command.place.partition(":")
        found = getattr(import_module(f"vlm_app.commands.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, epilog=epilog(name))
        else:
            app.command(name, epilog=epilog(name))(found)
    return app


def _say_version(asked_for: bool) -> None:
    if asked_for:
        try:
            print(f"vlm-heads {version('vlm-heads')}")
        except PackageNotFoundError:  # a checkout that was not installed
            print("vlm-heads 0+unknown")
        raise typer.Exit


def _before(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Make a vision-language model hallucinate less: find the attention heads that look at the image, and give them and
    the image the weight they lost."""


def _not_imported() -> None:
    raise AssertionError("the subcommand that runs was asked for, and so it was imported")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = [word for word in given if word in COMMANDS][:1]  # only --help may stand before it
    run_app(command_line(asked), given or ["--help"])


if __name__ == "__main__":
    main()
