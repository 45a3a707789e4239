"""Rows of a file: JSON lines, a JSON list or object, a table with a header, or the first sheet of a workbook."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_evals.data.spreadsheet import rows_of_workbook
from vlm_evals.errors import FileFormatError
from vlm_evals.records import read_rows, read_text

WORKBOOK = ".xlsx"
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a file; .csv, .tsv and .xlsx are tables whose first line names columns.

    Raises:
        FileFormatError: naming the line that is no row.
    """
    if path.suffix.lower() == WORKBOOK:
        return rows_of_workbook(path)
    separator = SEPARATORS.get(path.suffix.lower())
    return read_rows(path) if separator is None else _table(path, separator)


def _table(path: Path, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                columns = ", ".join(reader.fieldnames or ())
                reason = f"has another number of cells than its header ({columns})"
                raise FileFormatError(path, reader.line_num, reason)
            yield reader.line_num, {name.strip(): cell for name, cell in row.items()}
    except csv.Error as error:
        raise FileFormatError(path, reader.line_num, f"is no table of {path.suffix[1:].upper()} ({error})") from error
