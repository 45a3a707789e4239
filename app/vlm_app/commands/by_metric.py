"""Makes a command for each metric, when it is asked for, with the metric's own options."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vlm_app.examples import epilog

if TYPE_CHECKING:
    from vlm_evals.metric import Metric, Option

Command = Callable[..., None]


class MetricGroup(TyperGroup, ABC):
    """A command for every metric. Metrics are looked for when one is named or all are listed, and not before."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the metrics that have this command."""
        from vlm_evals.registry import known_metrics

        return [name for name, metric in known_metrics().items() if self.offered(metric)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a metric.

        Raises:
            UnknownMetric: if there is no such metric, with the nearest known one.
        """
        from vlm_evals.registry import find_metric

        app = typer.Typer(add_completion=False)
        metric = find_metric(cmd_name)
        app.command(cmd_name, epilog=epilog(f"{self.name} {cmd_name}"))(self.command_for(metric))
        return typer.main.get_command(app)

    @abstractmethod
    def offered(self, metric: Metric) -> bool:
        """Whether a metric has this command."""
        ...

    @abstractmethod
    def command_for(self, metric: Metric) -> Command:
        """Return the function that Typer makes a metric's command of."""
        ...


def shaped(run: Command, parameters: Iterable[inspect.Parameter], help: str) -> Command:
    """Return a function that takes exactly these parameters and hands them on by name.

    Args:
        run: takes them as keywords.
        parameters: with annotations as Typer reads them.
        help: what `--help` says.
    """

    def command(**given: Any) -> None:
        run(**given)

    listed = list(parameters)
    command.__doc__ = help
    command.__annotations__ = {one.name: one.annotation for one in listed}
    command.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
    return command


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keywords that a function names; their annotations are as Typer reads them, and no strings."""
    found = inspect.signature(function).parameters
    return {name: one for name, one in found.items() if one.kind is inspect.Parameter.KEYWORD_ONLY}


def option_parameters(options: Sequence[Option]) -> list[inspect.Parameter]:
    """Return a metric's own options as parameters."""
    return [_parameter(one, typer.Option(*_written(one), help=one.help)) for one in options]


def argument_parameter(file: Option) -> inspect.Parameter:
    """Return what a metric scores as an argument, one or several."""
    return _parameter(file, typer.Argument(help=file.help)).replace(default=inspect.Parameter.empty)


def _written(option: Option) -> list[str]:
    return [f"--{option.name.replace('_', '-')}", *([option.short] if option.short else [])]


def _parameter(option: Option, about: Any) -> inspect.Parameter:
    kind: Any = list[option.kind] if option.several else option.kind  # type: ignore[name-defined]
    default: Any = inspect.Parameter.empty if option.required else option.default
    if default is None:
        kind = kind | None
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about]
    )
