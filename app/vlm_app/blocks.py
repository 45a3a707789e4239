"""Blocks of a page that a program writes, between two marks; no number is copied by hand."""

from __future__ import annotations

from pathlib import Path

from vlm_evals.errors import TaskError
from vlm_evals.records import write_text


def require_block(page: Path, name: str) -> None:
    """Check that `write_block` will find its place, before anything slow.

    Raises:
        TaskError: if the page is there without the marks.
    """
    _around(page, name)


def write_block(page: Path, name: str, text: str) -> None:
    """Put a text between the two marks of a page; a page that is not there yet is made of the block alone.

    Raises:
        TaskError: if the page is there without the marks.
    """
    before, after = _around(page, name)
    begin, end = _marks(name)
    write_text(page, f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def _around(page: Path, name: str) -> tuple[str, str]:
    """Return what stands before and after a block."""
    if not page.exists():
        return "", "\n"
    begin, end = _marks(name)
    before, mark, rest = page.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (mark and closed):
        raise TaskError(f"{page} has no block to fill in: put the lines {begin!r} and {end!r} where it belongs")
    return before, after


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: written by a program, from here -->", f"<!-- {name}: to here -->"
