"""What a command prints: results to standard output, progress and remarks to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Advance = Callable[[int], None]


def print_json(value: Any) -> None:
    """Print one JSON value, without NaN."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remark(text: str) -> None:
    """Print a line that is no result."""
    sys.stderr.write(f"{text}\n")


def on_terminal() -> bool:
    """Whether a person watches: no bar, no colour and no cursor movement goes into a pipe."""
    return sys.stderr.isatty()


def loading(model: str) -> None:
    """Say on a terminal that a model is being loaded, before torch is imported, which takes seconds itself."""
    if on_terminal():
        remark(f"loading {model} …")
        sys.stderr.flush()


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Advance]:
    """Yield what is called with the number of things done; it draws a bar on a terminal and nothing in a pipe."""
    if not on_terminal():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def steps(advance: Advance) -> Advance:
    """Return what is called with the number done so far, where `advance` wants how many more."""
    before = 0

    def step(done: int) -> None:
        nonlocal before
        advance(done - before)
        before = done

    return step


def print_table(title: str, header: Iterable[str], rows: Iterable[Iterable[str]], *, prose: str | None = None) -> None:
    """Print a table; the first column is text, the column named `prose` is sentences, the others are numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        text = index == 0 or name == prose
        table.add_column(name, justify="left" if text else "right", no_wrap=not text)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a pipe has no width; wrap for nobody
    console.print(table)


def publish(report: Mapping[str, Any], out: Path | None, as_json: bool) -> None:
    """Write a report where a folder is given, and print it."""
    from vlm_evals.report import write_report
    from vlm_evals.reports.tables import headline, tables

    written = write_report(out, report) if out is not None else []
    if as_json:
        print_json(report)
        return
    print(headline(report))
    for alert in report.get("alerts", ()):
        print(alert)
    for table in tables(report):
        print_table(table.title, table.header, table.rows)
    if report["failures"]:
        print(f"{len(report['failures'])} samples were not answered")
    if written:
        print(f"report: {written[1]} ({', '.join(path.name for path in written if path != written[1])} beside it)")
