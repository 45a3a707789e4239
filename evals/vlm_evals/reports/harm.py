"""What a method does to neutral answers, as a table; see the program that measures it, `vlm_evals.harm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_evals.reports.table import Table

PARTS = {"text": "text alone", "pictures": "pictures of nothing"}
TITLE = "General harm: answers to neutral prompts, plain and mitigated"
_HEADER = (
    "prompts", "answers that are equal", "tokens that agree", "perplexity in the plain model", "repeated 4-grams",
)  # fmt: skip


def harm_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return the table of a paired report, or nothing where it was not measured."""
    harm = report.get("harm") or {}
    rows = [_row(said, harm[name]) for name, said in PARTS.items() if name in harm]
    return [Table(TITLE, _HEADER, rows)] if rows else []


def _row(said: str, part: Mapping[str, Any]) -> tuple[str, ...]:
    if why := part.get("untouched") or part.get("refused"):
        return (said, str(why), "", "", "")
    return (
        said,
        f"{part['same']} of {part['prompts']}",
        _percent(part["agreement"]),
        " → ".join(_number(part["perplexity"][side]) for side in ("plain", "mitigated")),
        " → ".join(_percent(part["repeated"][side]) for side in ("plain", "mitigated")),
    )


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
