"""The committed table of what each family supports, held against what the tests find."""

import os
from pathlib import Path

from tests.support.families import FAMILIES


class FamilyTable:
    """docs/families.md: what each family supports, cell by cell as its test finds it.

    A test that runs over all families states its cell; a table that says something else is stale and fails it. With
    WRITE_FAMILIES=1 (and `-n 0`) the cell is written instead.
    """

    PAGE = Path(__file__).parents[2] / "docs" / "families.md"

    def read(self) -> tuple[list[str], dict[str, dict[str, str]]]:
        """Return the page's text before the table as lines, and family -> column -> cell."""
        lines = self.PAGE.read_text("utf-8").splitlines()
        start = next(at for at, line in enumerate(lines) if line.startswith("| family"))
        header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:] if line)
        return lines[:start], {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}

    def states(self, family: str, column: str, cell: str) -> None:
        """Fail where the page says otherwise, or write the cell where that was asked for."""
        before, cells = self.read()
        if os.environ.get("WRITE_FAMILIES") == "1":
            cells.setdefault(family, {})[column] = cell
            columns = list(dict.fromkeys(name for row in cells.values() for name in row))
            rows = [[name, *(cells.get(name, {}).get(one, "") for one in columns)] for name in FAMILIES]
            table = [["family", *columns], ["---"] * (1 + len(columns)), *rows]
            self.PAGE.write_text("\n".join([*before, *(f"| {' | '.join(row)} |" for row in table)]) + "\n", "utf-8")
            return
        said = cells.get(family, {}).get(column)
        assert said == cell, (
            f"docs/families.md is stale, {family}, {column}: {said!r} is now {cell!r}; WRITE_FAMILIES=1"
        )
