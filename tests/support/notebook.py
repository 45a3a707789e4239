"""The notebook of the examples, run from its first cell to its last.

python -m tests.support.notebook    runs it and keeps what it shows
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"
SECONDS = 500  # for one cell; a machine that does nothing else needs five


def executed(path: Path) -> Any:
    """Return a notebook with what its cells show now, in a process of its own.

    Warnings and progress bars are left out: they differ from machine to machine.

    Raises:
        CellExecutionError: for the first cell that fails.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    client = NotebookClient(
        book,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,  # what a cell prints is one output, however the kernel cuts it
    )
    client.execute()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return book


def said(book: Any) -> list[str]:
    """Return what the cells of a notebook say, in order: printed lines, and results that are text."""
    outputs = [one for cell in book.cells if cell.cell_type == "code" for one in cell.outputs]
    return [one.text if one.output_type == "stream" else _text(one.data) for one in outputs]


def keep(path: Path) -> None:
    """Run a notebook, and write it with what it shows and with the version of torch that it ran on."""
    import nbformat

    book = executed(path)
    book.metadata = {"kernelspec": book.metadata["kernelspec"], "torch": version("torch").partition("+")[0]}
    nbformat.write(book, path)


def _text(data: Any) -> str:
    return str(data.get("text/markdown") or data.get("text/html") or data["text/plain"])


if __name__ == "__main__":
    keep(TOUR)
