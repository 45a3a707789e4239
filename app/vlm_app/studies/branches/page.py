"""The part of docs/effect.md about BranchContrast's layers, written between two marks, no number by hand.

docs/branches/MODEL.json         what was measured
docs/pictures/branches-MODEL.png drawn from it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_evals.records import write_json

from vlm_app.blocks import write_block
from vlm_app.studies.branches.pictures import draw_branches

Found = Mapping[str, Any]

KEPT, PICTURES = "branches", "pictures"  # folders beside the page
MOST_ROWS = 10
_KINDS = {
    "faithful": "faithful mention",
    "invented": "invented mention",
    "present": "yes over no, present",
    "absent": "yes over no, absent",
    "other": "other word",
}


def write_branches(page: Path, found: Found) -> list[Path]:
    """Fill in the model's block of a page, keep its numbers and picture beside the page, and return the files.

    Raises:
        TaskError: if the page is there without the block's marks.
    """
    name = found["about"]["model"]
    write_block(page, f"branches-{name}", branches_block(found))
    kept = page.parent / KEPT / f"{name}.json"
    write_json(kept, found)
    return [page, kept, draw_branches(found, page.parent / PICTURES)]


def branches_block(found: Found) -> str:
    """Return what was found as Markdown."""
    about = found["about"]
    picture = f"![Losses by layer]({PICTURES}/branches-{about['model']}.png)"
    head = f"`{about['model']}` (weights {about['weights']}), {about['scenes']} {about['split']} scenes."
    return "\n\n".join([head, *sentences(found), picture, _table(found)])


def sentences(found: Found) -> list[str]:
    """Return in sentences what is lost by layer, and from where the difference tells best."""
    starts = found["starts"]
    first = starts[0]
    lines = [
        f"Without the image in all layers a faithful first mention loses {_nats(first['faithful'])} and an invented "
        f"one {_nats(first['invented'])}."
    ]
    half = next((row for row in starts if _kept(row, first) >= 0.5), None)
    if half is not None:
        lines.append(
            f"Where the image is hidden from layer {half['start']} of {len(starts)} on, {_kept(half, first):.0%} of "
            "what it gives to faithful mentions is left: the text has read it in lower layers."
        )
    if all(row["auc"] is not None for row in starts):
        lines.append(_telling(starts, found["about"]["weight"]))
    return lines


def _telling(starts: Sequence[Mapping[str, Any]], weight: float) -> str:
    """Return where the difference tells faithful from invented mentions best, and what it disturbs."""
    first, middle = starts[0], starts[len(starts) // 2]
    best = max(starts, key=lambda row: row["auc"]["estimate"])
    where = "where it is hidden in all layers" if best is first else f"where it is hidden from layer {best['start']} on"
    others = {row["start"]: row for row in (first, middle) if row is not best}
    aucs = " and ".join(f"{_figure(row['auc'])} from layer {start}" for start, row in others.items())
    rows = {row["start"]: row for row in (first, middle, best)}
    changed = ", ".join(f"{row['changed']:.1%} from layer {start}" for start, row in sorted(rows.items()))
    return (
        f"The difference of the streams tells faithful from invented mentions best {where}: AUC "
        f"{_figure(best['auc'])}, against {aucs}. The contrast at weight {weight:g} would change these shares of the "
        f"other words: {changed}."
    )


def _kept(row: Mapping[str, Any], first: Mapping[str, Any]) -> float:
    """Return the share of what the image gives to faithful mentions that a stream has kept."""
    if row["faithful"] is None or not first["faithful"]["estimate"]:
        return 0.0
    return 1.0 - float(row["faithful"]["estimate"] / first["faithful"]["estimate"])


def _table(found: Found) -> str:
    """Return a table of at most `MOST_ROWS` layers, evenly spaced, the first and the last among them."""
    starts: Sequence[Mapping[str, Any]] = found["starts"]
    step = -(-(len(starts) - 1) // (MOST_ROWS - 1)) if len(starts) > 1 else 1
    shown = [*starts[:-1:step], starts[-1]]
    kinds = [kind for kind in _KINDS if found["counts"][kind]]
    header = ["hidden from layer", *(f"{_KINDS[kind]} ({found['counts'][kind]})" for kind in kinds)]
    header += ["AUC", "other words changed"]
    lines = [_row(header), _row(["---"] * len(header))]
    for row in shown:
        auc = "" if row["auc"] is None else _figure(row["auc"])
        cells = [str(row["start"]), *(_figure(row[kind]) for kind in kinds), auc, f"{row['changed']:.1%}"]
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(found: Mapping[str, float]) -> str:
    return f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _nats(found: Mapping[str, float] | None) -> str:
    return "nothing (there is none)" if found is None else f"{_figure(found)} nats"
