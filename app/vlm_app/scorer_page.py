"""docs/scorers.md, written from the registry and each scorer's own text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlm_app.method_facts import default_of, own_text, range_of
from vlm_app.method_page import address, table

if TYPE_CHECKING:
    from vlm_heads.scorers import Scorer

PAGE = "scorers.md"
_OF_NOBODY = "of no one paper"
_HEAD = """# Head scorers

Every way of giving the heads of a model a number, in the project's own words. This page is written together with
[methods.md](methods.md) from the scorers themselves; a test fails where it says otherwise.

    vlm-heads score sample:kitchen --scorer image-mass                       # one scorer, on pictures
    vlm-heads score --scorer allpath-format --about questions                # on what is judged: our world, or --data
    vlm-heads score --scorer vhd --scorer image-mass --scorer logits         # how far they agree
    vlm-heads calibrate mini --scorer allpath-format --out reinforced        # static gains by a scorer

`score` writes a `HeadProfile` whose card names the scorer, a map of the heads, and `heads.jsonl`: a line
`[[layer, head], score]` for each head, the lowest first, which is the list format of AllPath. Methods that read a
profile take any scorer's, as `--with vhr:heads=fixed --profile profile`. Of several scorers it prints Spearman's rank
correlations, over all heads and within layers, and draws them; on the diagonal stand both halves of the samples, which
says how stable a scorer is. A method that chooses heads in each layer depends on the correlation within layers alone.

Judged samples are the model's own captions (`--about captions`), whose object words are compared with what the picture
shows, or POPE's question about one object of each picture and about one that it does not show (`--about questions`).
The pictures are scenes of the embedded world's validation split, or of a folder in COCO's format. In Python a sample is
an `Example` of `vlm_heads.scorers`, and may be anything. Scores of right and of wrong words are averaged on their own,
and the difference is the score.

A scorer of your own is a frozen dataclass, a subclass of `Scorer` with `look`; from another package it is an entry
point of the group `vlm_heads.scorers`: [examples/new_scorer.py](../examples/new_scorer.py).
"""


def page_text() -> str:
    """Return the page of the package's own scorers."""
    from vlm_heads.scorers import known_scorers

    own = [kind for kind in known_scorers().values() if kind.__module__.startswith("vlm_heads.")]
    head = ("name", "scorer", "needs", "cost of a sample", "unit", "paper")
    rows = [
        (
            f"[`{kind.name}`](#{kind.name})",
            kind.label or kind.name,
            kind.needs,
            kind.cost,
            kind.unit,
            _OF_NOBODY if kind.paper is None else kind.paper.cited,
        )
        for kind in own
    ]
    return "\n".join([_HEAD, *table(head, rows), "", *map(_section, own)])


def write_page(beside: Path) -> None:
    """Write the page beside the page of methods."""
    beside.with_name(PAGE).write_text(page_text(), encoding="utf-8")


def _section(kind: type[Scorer]) -> str:
    from vlm_heads.scorers import NEEDED

    summary, sections = own_text(kind)
    whose = _OF_NOBODY if kind.paper is None else address(kind.paper)
    parts = [f"## {kind.name}", f"**{kind.label or kind.name}**: {whose}. Cost: {kind.cost}. Class: `{kind.__name__}`."]
    parts += [summary, f"**Needs.** {NEEDED[kind.needs][0].upper()}{NEEDED[kind.needs][1:]}."]
    for name, text in sections.items():
        parts.append(f"```\n{text}\n```" if name == "Formula" else f"**{name}.** {' '.join(text.split())}")
    if kind.options():
        rows = [(f"`{one.name}`", f"`{default_of(one)}`", range_of(one), one.help) for one in kind.options()]
        parts.append("\n".join(table(("option", "default", "range", "what"), rows)))
    return "\n\n".join(parts) + "\n"
