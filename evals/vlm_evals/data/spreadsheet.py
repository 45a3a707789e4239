"""The first sheet of an .xlsx workbook as rows of text, as VLMEvalKit writes its answers; no package is needed for it.

A workbook is a zip of XML files: texts stand in one list, and cells name their place and the number of their text.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vlm_evals.errors import FileFormatError

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_PLACE = re.compile(r"([A-Z]+)(\d+)")
LARGEST = 500_000_000  # bytes of a sheet, unpacked


def rows_of_workbook(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, column name -> text) of the first sheet, whose first row names the columns.

    An empty cell is an empty text, and an empty row is passed over.

    Raises:
        FileFormatError: if the file is no workbook, or a cell has no column name.
    """
    try:
        with zipfile.ZipFile(path) as book:
            texts = _texts(book)
            sheet = min((name for name in book.namelist() if _is_sheet(name)), key=_number, default=None)
            if sheet is None:
                raise FileFormatError(path, None, "is a workbook without a sheet")
            cells = _cells(_parsed(book, sheet), texts)
    except OSError as error:
        raise FileFormatError(path, None, f"cannot be read ({error.strerror or error})") from error
    # zipfile raises NotImplementedError for a compression or an encryption that it does not know
    except (zipfile.BadZipFile, ElementTree.ParseError, ValueError, IndexError, NotImplementedError) as error:
        reason = f"is no workbook that can be read ({error}); save it as .csv, and give that"
        raise FileFormatError(path, None, reason) from error
    first, *numbers = sorted(cells) or [0]
    header = cells.get(first, {})
    for number in numbers:
        if strange := sorted(cells[number].keys() - header.keys()):
            raise FileFormatError(path, number, f"the cell {strange[0]}{number} stands in a column without a name")
        yield number, {name.strip(): cells[number].get(column, "") for column, name in header.items()}


def _is_sheet(name: str) -> bool:
    return re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name) is not None


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name.rsplit("/", 1)[-1]))


def _parsed(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST:,} bytes")
    return ElementTree.fromstring(book.read(name))


def _texts(book: zipfile.ZipFile) -> list[str]:
    """Return the texts that cells name by their numbers."""
    if "xl/sharedStrings.xml" not in book.namelist():
        return []
    return [_joined(one) for one in _parsed(book, "xl/sharedStrings.xml").iter(f"{_MAIN}si")]


def _joined(element: ElementTree.Element) -> str:
    """Return a text whose parts may differ in style; how it is to be pronounced is no part of it."""
    runs = [part for child in element if child.tag != f"{_MAIN}rPh" for part in child.iter(f"{_MAIN}t")]
    return "".join(part.text or "" for part in runs)


def _cells(sheet: ElementTree.Element, texts: list[str]) -> dict[int, dict[str, str]]:
    """Return row -> column -> text, without empty cells."""
    found: dict[int, dict[str, str]] = {}
    for cell in sheet.iter(f"{_MAIN}c"):
        place = _PLACE.fullmatch(cell.get("r", ""))
        if place is None:
            raise ValueError(f"a cell has the place {cell.get('r')!r}")
        if text := _text(cell, texts):
            found.setdefault(int(place[2]), {})[place[1]] = text
    return found


def _text(cell: ElementTree.Element, texts: list[str]) -> str:
    inline, value = cell.find(f"{_MAIN}is"), cell.find(f"{_MAIN}v")
    if inline is not None:
        return _joined(inline)
    written = "" if value is None else value.text or ""
    if cell.get("t") == "s":
        return texts[int(written)]
    return written
