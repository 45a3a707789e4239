"""Running the command line inside the test process: seconds less for every call than a process of its own."""

import pytest
from vlm_app.cli import main

from tests.support.command import Command, Mistake, Outcome


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `vlm-heads` with arguments of any type."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = end.value.code
        return Outcome(0 if code is None else int(code), captured.out, captured.err)

    return run


@pytest.fixture
def mistake(command: Command) -> Mistake:
    """Run a command that must end with 2 and exactly one line; return the line."""

    def run(*arguments: object) -> str:
        outcome = command(*arguments)
        assert outcome.code == 2, outcome
        assert outcome.out == ""
        (line,) = outcome.err.splitlines()
        assert line.startswith("vlm-heads: ")
        return line

    return run
