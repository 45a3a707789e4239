"""What the page shows of every setting of the league, read from the page of results: one source for both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_evals.errors import TaskError
from vlm_evals.records import write_json

from vlm_heads import Mitigation

_MEASURED = re.compile(r"Measured on (?P<date>\S+) with `(?P<model>[^`]+)` \(weights (?P<weights>\w+)\)")
_HELD_OUT = re.compile(r"## Held-out, (?P<scenes>\d+) scenes[^\n]*\n\n(?P<table>(?:\|[^\n]*\n)+)")
_SETTING = re.compile(r"(?P<label>.+): `(?P<words>[^`]+)`(?P<idle>; it never acted)?")
_INTERVAL = re.compile(r"(?P<estimate>[-+]?[\d.]+) \[(?P<low>[-\d.]+), (?P<high>[-\d.]+)\]")


def read_chart(results: Path) -> dict[str, Any]:
    """Return the held-out rows of a page of results, the latest of each setting.

    Raises:
        TaskError: if the page has no such table, or tables of several models.
    """
    text = results.read_text("utf-8")
    blocks = [(about, text[about.end() :]) for about in _MEASURED.finditer(text)]
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    plain: dict[str, float] = {}
    facts: dict[str, Any] = {}
    for about, rest in blocks:
        table = _HELD_OUT.search(rest)
        if table is None:
            continue
        if facts and (facts["model"], facts["weights"]) != (about["model"], about["weights"]):
            raise TaskError(f"{results} has tables of several models, and the page shows one")
        facts = {**about.groupdict(), "scenes": int(table["scenes"])}
        for row in _rows(table["table"]):
            if row["setting"] == "plain (greedy)":
                plain = plain or _numbers(row)
            elif (setting := _SETTING.fullmatch(row["setting"])) is not None:
                words = Mitigation.parse(setting["words"]).words()
                found[words] = {"label": setting["label"], "words": list(words), **_numbers(row), **_equal(row)}
    if not found:
        raise TaskError(f"{results} has no table of held-out scenes: fill it in with vlm-heads study pages")
    return {**facts, "plain": plain, "settings": [row for row in found.values() if "control," not in row["label"]]}


def write_chart(results: Path, chart: Path) -> dict[str, Any]:
    """Write what the page shows, and return it.

    Raises:
        TaskError: see `read_chart`.
    """
    found = read_chart(results)
    write_json(chart, found)
    return found


def _rows(table: str) -> Iterator[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.strip().splitlines()]
    for cells in lines[2:]:
        yield dict(zip(lines[0], cells, strict=True))


def _numbers(row: dict[str, str]) -> dict[str, float]:
    """Return percent of captions that invent something, of objects found, and the time relative to plain."""
    cells = {"chair_s": "CHAIR_S", "recall": "recall", "time": "time"}
    return {name: float(row[cell].rstrip("*")) for name, cell in cells.items() if row.get(cell)}


def _equal(row: dict[str, str]) -> dict[str, Any]:
    """Return the difference from the plain model at equal recall with its interval; None off its curve."""
    interval = _INTERVAL.fullmatch(row["CHAIR_S at equal recall"])
    return {"at_equal_recall": None if interval is None else {k: float(v) for k, v in interval.groupdict().items()}}
