"""Runs a command, and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

import typer
from vlm_evals.errors import EvaluationError

USAGE_ERROR = 2
INTERRUPTED = 130
_REMEDIES = {
    errno.ENOSPC: "; free some space and start again",
    errno.EDQUOT: "; free some space and start again",
    errno.EROFS: "; choose another place",
    errno.EACCES: "; choose another place, or allow it",
    errno.ENAMETOOLONG: "; give a shorter name",
}

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show is no mistake
    try:
        code = command(arguments, standalone_mode=False)
        sys.stdout.flush()
    except _CommandLineError as error:
        _complain(error.format_message())
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left
        sys.exit(1)
    except OSError as error:
        _drop_output()
        _complain(_of_system(error))
    except user_mistakes() as error:
        _complain(str(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def user_mistakes() -> tuple[type[Exception], ...]:
    """Return the exceptions that are a user's mistake; the library's are known only where it was imported."""
    library = sys.modules.get("vlm_heads.errors")
    return (EvaluationError, UsageError, OSError, *((library.VlmHeadsError,) if library else ()))


def require_place(path: Path | None, kind: Literal["any", "file", "folder"] = "any") -> None:
    """Refuse a place where nothing can be written, before any work is done for it.

    Args:
        path: of what is written in the end; None for nothing.
        kind: what it will be; where the other one is there already, it cannot.

    Raises:
        UsageError: saying what stands in the way.
    """
    if path is None:
        return
    there = path.absolute()
    try:
        while not there.exists():
            there = there.parent
    except OSError as error:
        raise UsageError(_of_system(error)) from error
    if kind == "folder" and path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, and a folder is written: choose another place")
    if kind == "file" and path.is_dir():
        raise UsageError(f"{path} is a folder, and a file is written: choose another place")
    if there.is_dir() or there == path.absolute():
        if not os.access(there, os.W_OK):
            raise UsageError(f"{path} cannot be written, {there} allows no writing: choose another place")
    else:
        raise UsageError(f"{path} cannot be written, {there} is no folder: choose another place")


def _of_system(error: OSError) -> str:
    """Return what the system refused: the file, the reason and what to do."""
    if error.filename is None or error.strerror is None:
        said = str(error) if error.strerror is None else f"what is printed cannot be written ({error.strerror})"
    else:
        said = f"{os.fsdecode(error.filename)}: {error.strerror}"
    return said + _REMEDIES.get(error.errno or 0, "")


def _drop_output() -> None:
    """Let what is still to be printed go nowhere, so that the end of the process does not fail on it again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> NoReturn:
    line = " ".join(message.split())
    sys.stderr.write(f"vlm-heads: {line}\n")
    sys.exit(USAGE_ERROR)
