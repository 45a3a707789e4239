"""A report's tables as LaTeX, with booktabs' rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_evals.reports.table import Table
from vlm_evals.reports.tables import headline, tables

_WRITTEN = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\rightarrow$", "–": "--", "…": r"\dots{}",
}  # fmt: skip


def latex(report: Mapping[str, Any]) -> str:
    """Return every table of a report, each in an environment of its own; the preamble needs `booktabs`."""
    protocol = report["settings"].get("protocol") or {}
    lines = [f"% {_one_line(headline(report))}"]
    lines.append(f"% protocol {_one_line(protocol.get('name', 'unknown'))}, hash {protocol.get('hash', 'unknown')}")
    lines.append(f"% n = {report['n']}; \\usepackage{{booktabs}} is needed")
    return "\n".join([*lines, *(line for table in tables(report) for line in _table(table))]) + "\n"


def _table(table: Table) -> list[str]:
    columns = "l" + "r" * (len(table.header) - 1)
    return [
        "",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(table.title)}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {_row(table.header)}",
        r"    \midrule",
        *(f"    {_row(row)}" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]


def _row(cells: tuple[str, ...]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def escaped(text: str) -> str:
    """Return a text that LaTeX prints as it stands, on one line; a cell may begin with a bracket."""
    written = "".join(_WRITTEN.get(letter, letter) for letter in _one_line(text))
    # `\\` before a row takes a bracket for its argument
    return f"{{{written}}}" if written.startswith(("[", "*")) else _minus(written)


def _minus(text: str) -> str:
    """Return a number's sign as a minus, which a hyphen is too short for."""
    return f"${text[0]}${text[1:]}" if text[:1] in "+-" and text[1:2].isdigit() else text


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
