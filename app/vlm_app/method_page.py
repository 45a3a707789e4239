"""docs/methods.md, written from the registry, each method's own text and the league's table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_app.method_facts import (
    by_lever,
    cost,
    default_of,
    kind_of,
    label,
    means,
    needs,
    own_text,
    range_of,
    source,
)

if TYPE_CHECKING:
    from vlm_heads import Method, Paper

RESULTS = "results.md"
_HELD_OUT = "## Held-out"
_SHOWN = ("CHAIR_S", "recall", "CHAIR_S at equal recall", "POPE accuracy", "time")
_WORDS = re.compile(r"`([^`]+)`")
_HEAD = """# Methods

Every method of the package, in the project's own words. `vlm-heads methods` prints the same on a terminal. This page is
written by

    vlm-heads methods --write docs/methods.md

from the methods themselves and from [results.md](results.md); a test fails where it says otherwise.

An *intervention* acts inside the model, on attention or on the hidden state between layers, and several may be
combined. A *lens* weighs the token logits with what earlier layers or steps say, without a second forward; several may
be combined too. A *contrast* runs a second stream of token logits, or two; there is one at a time, beside any
interventions and lenses. All streams go through the same forwards, so that a token's weights are read once. Where that
cannot be, the others run forwards of their own, and the receipt says why. A *check* reads the model's words before they
are said; there is one at a time too, beside all of them. A *pipeline* takes the place of an ordinary answer: it lets
the model answer first and asks it otherwise, and whatever else is attached acts on what is asked in the end; or it
searches in its own way, alone. The table groups all by their *lever*: what they change. Layers and heads are counted
from 0. Where every option with a value under "changes nothing at" has that value, the model answers as without the
method.

What a method did here is what it did to `mini`, a small model of a small world: evidence for the tool and not for the
method. *At equal recall* is the difference from the plain model's own trade-off curve; below zero is better.
"""


def write_page(page: Path) -> None:
    """Write the page; the league's table is read from `results.md` beside it, where there is one."""
    page.write_text(page_text(page.parent / RESULTS), encoding="utf-8")


def page_text(results: Path) -> str:
    """Return the page of the package's own methods.

    Args:
        results: the league's page; a missing one leaves out what the methods did.
    """
    from vlm_heads import known_methods

    own = [kind for kind in known_methods().values() if kind.__module__.startswith("vlm_heads.")]
    groups = by_lever(own)
    ordered = [kind for some in groups.values() for kind in some]
    rows = list(_league(results))
    return "\n".join([_HEAD, *_overview(groups), "", *(_section(kind, rows) for kind in ordered)])


def _overview(groups: Mapping[str, Sequence[type[Method]]]) -> list[str]:
    """Return the table of methods by lever; a lever is named and explained in its first row."""
    head = ("lever", "name", "method", "kind", "streams a token", "needs", "paper")
    rows = [
        (
            f"**{lever}**: {means(lever)}" if place == 0 else "",
            f"[`{kind.name}`](#{kind.name})",
            label(kind),
            kind_of(kind),
            str(kind.passes),
            needs(kind),
            "ours" if kind.paper is None else kind.paper.cited,
        )
        for lever, some in groups.items()
        for place, kind in enumerate(some)
    ]
    return table(head, rows)


def _section(kind: type[Method], league: Sequence[Mapping[str, str]]) -> str:
    summary, sections = own_text(kind)
    parts = [
        f"## {kind.name}",
        f"**{label(kind)}**: {address(kind.paper)}. Cost: {cost(kind)}. Class: `{kind.__name__}`.",
    ]
    parts += [summary]
    for name, text in sections.items():
        parts.append(f"```\n{text}\n```" if name == "Formula" else f"**{name}.** {' '.join(text.split())}")
    head = ("option", "default", "range", "changes nothing at", "what")
    rows = [
        (
            f"`{one.name}`",
            f"`{default_of(one)}`",
            range_of(one),
            "" if one.neutral is None else f"`{one.write(one.neutral)}`",
            one.help,
        )
        for one in kind.options()
    ]
    parts.append("\n".join(table(head, rows)))
    if league:
        parts.append(_here(kind, league))
    return "\n\n".join(parts) + "\n"


def address(paper: Paper | None) -> str:
    """Return a paper in full, its number at arXiv as a link; or whose method it is."""
    number = paper.arxiv if paper else ""
    link = f"[arXiv {number}](https://arxiv.org/abs/{number})"
    return source(paper).replace(f"arXiv {number}", link) if number else source(paper)


def _here(kind: type[Method], league: Sequence[Mapping[str, str]]) -> str:
    """Return what the method did in the league on held-out scenes; the new rows alone where it was measured anew."""
    anew = [row for row in league if kind.name in row["names"].split() and row["block"] == "given"]
    played = anew or [row for row in league if kind.name in row["names"].split()]
    refused = next((row["CHAIR_S"] for row in league if row["setting"] == label(kind)), None)
    if refused is not None:
        return f"**What it did here.** It could not act: {refused.removeprefix('n/a: ')} ([results.md]({RESULTS}))."
    if not played:
        return f"**What it did here.** It is not in the table of [results.md]({RESULTS})."
    plain = next(row for row in league if row["block"] == played[0]["block"])  # the first row of a table
    columns = [name for name in _SHOWN if name in plain]  # without questions a league has no POPE
    rows = [(row["setting"], *(row[name] for name in columns)) for row in [plain, *played]]
    return f"**What it did here** ([results.md]({RESULTS}), held-out scenes):\n\n" + "\n".join(
        table(("setting", *columns), rows)
    )


def _league(results: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of the held-out tables, controls aside, by column, with their `block` and methods' `names`."""
    text = results.read_text(encoding="utf-8") if results.exists() else ""
    for block in ("league", "given"):
        yield from _rows(block, text.partition(f"<!-- {block}:")[2].partition(f"<!-- {block}:")[0])


def _rows(block: str, text: str) -> Iterator[dict[str, str]]:
    from vlm_heads import parse_mitigation

    lines = text.partition(_HELD_OUT)[2].partition("\n## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    for cells in table[2:]:
        row = dict(zip(table[0], cells, strict=True))
        if row["setting"].startswith("control"):
            continue
        words = _WORDS.search(row["setting"])
        methods = parse_mitigation(words[1].split()).methods() if words else ()
        yield row | {"names": " ".join(one.name for one in methods), "block": block}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, *rows)]
    return [f"| {lines[0]} |", "|" + " --- |" * len(head), *(f"| {line} |" for line in lines[1:])]
