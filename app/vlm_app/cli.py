"""The `vlm-heads` command: finds the subcommand, and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer
from vlm_evals.errors import EvaluationError

from vlm_app.commands import bench, calibrate, compare, demo, describe, doctor, evaluate, fold, judge, score, world

USAGE_ERROR = 2
INTERRUPTED = 130

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

# Typer carries its own copy of click in newer versions: the class is found by what is public in all of them.
_UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    run_app(app, given or ["--help"])


def run_app(command: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit; a user's mistake is one line and exit code 2.

    Args:
        command: what to run.
        arguments: in place of the process's own.
    """
    try:
        code = command(arguments, standalone_mode=False)
    except _UsageError as error:
        _complain(error.format_message())
    except user_mistakes() as error:
        _complain(str(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def user_mistakes() -> tuple[type[Exception], ...]:
    """Return the exceptions that are a user's mistake; the library's are known only where it was imported."""
    library = sys.modules.get("vlm_heads.errors")
    files = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
    return (EvaluationError, *files, *((library.VlmHeadsError,) if library else ()))


def _complain(message: str) -> NoReturn:
    line = " ".join(message.split())
    sys.stderr.write(f"vlm-heads: {line}\n")
    sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
