"""Runs a command, and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer
from vlm_evals.errors import EvaluationError

USAGE_ERROR = 2
INTERRUPTED = 130

# Typer carries its own copy of click in newer versions: the class is found by what is public in all of them.
_CommandLineError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]


class UsageError(ValueError):
    """A command cannot do what is asked; the message says what was given, what is needed and what to do."""


def run_app(command: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit; a user's mistake is one line and exit code 2.

    Args:
        command: what to run.
        arguments: in place of the process's own.
    """
    try:
        code = command(arguments, standalone_mode=False)
    except _CommandLineError as error:
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
    return (EvaluationError, UsageError, *files, *((library.VlmHeadsError,) if library else ()))


def _complain(message: str) -> NoReturn:
    line = " ".join(message.split())
    sys.stderr.write(f"vlm-heads: {line}\n")
    sys.exit(USAGE_ERROR)
