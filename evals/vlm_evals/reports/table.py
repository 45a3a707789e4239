"""A table of a report."""

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A table ready to print: every cell is text."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
