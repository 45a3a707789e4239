"""The whole field over several leagues: a row for each setting, a column for each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlm_app.method_page import table
from vlm_app.studies.chosen import CAPTIONS
from vlm_app.studies.league.evidence import corrected, stands
from vlm_heads import parse_mitigation

Found = Mapping[str, Any]
Cells = dict[str, dict[int, str]]  # setting -> place among the leagues -> what stands there

_OFF = "off"
_CHOSEN = ("chosen", "found here")  # how the label of a setting ends that a model's own validation scenes chose
_NOTES = """CHAIR_S at equal recall, in points, with its 95 % bootstrap interval; below zero is better. **Bold**: the
difference stands after Holm's correction over all rows of that model's split, controls among them. *Off*: the setting's
recall lies outside the plain model's trade-off curve, so nothing can be told. What follows a dot says how many of the
setting's own controls it is better than, as 2/3. *Chosen* settings, and heads *found here*, are each model's own and
may differ between models; all others are the same everywhere."""


def field(leagues: Sequence[Found], split: str) -> str:
    """Return a Markdown table of every setting that was played on a split, the best first.

    Settings whose place on some model's curve cannot be told come after those that lie on all; settings that no league
    but one played come last.

    Args:
        leagues: each of a model; those that did not play the split are left out.
        split: of the embedded world.
    """
    played = [(one, measured) for one in leagues for measured in one["final"] if measured["split"] == split]
    cells: Cells = {}
    estimates: dict[str, dict[int, float | None]] = {}
    for place, (league, measured) in enumerate(played):
        ps = corrected(measured)["chair_s"]
        for name, row in measured[CAPTIONS]["controls"].items():
            for said in _names(league["rows"][name]):
                estimates.setdefault(said, {})[place] = row["curve_difference"]["chair_s"]["estimate"]
                cells.setdefault(said, {})[place] = _cell(row, ps[name])
    models = [f"{league['about']['model']}, {measured['captions']}" for league, measured in played]
    ordered = sorted(cells, key=lambda one: _rank(estimates[one], len(played)))
    rows = [[said, *(cells[said].get(place, "") for place in range(len(played)))] for said in ordered]
    return "\n".join(table(["setting", *models], rows))


def field_page(leagues: Sequence[Found]) -> str:
    """Return the tables of every split that some league played, with what their marks mean."""
    splits = dict.fromkeys(measured["split"] for one in leagues for measured in one["final"])
    parts = [f"### {split.capitalize()} scenes\n\n{field(leagues, split)}" for split in splits]
    return "\n\n".join([_NOTES, *parts, *_chosen(leagues)]) + "\n"


def _chosen(leagues: Sequence[Found]) -> list[str]:
    """Return what each model's own validation scenes chose, by what it is called; nothing where none chose."""
    words: dict[str, list[str]] = {}
    for league in leagues:
        for row in league["rows"].values():
            for said in _names(row):
                if said.endswith(_CHOSEN):
                    words.setdefault(said, []).append(f"{league['about']['model']} `{' '.join(row['words'])}`")
    lines = [f"- {said}: {', '.join(one)}" for said, one in words.items()]
    return ["\n".join(["What was chosen:", "", *lines])] if lines else []


def _names(row: Found) -> Iterator[str]:
    """Yield what a row counts as: "X, chosen" where validation chose it, and its words where they are stated."""
    if row["role"] == "control":
        return
    labels = row["label"].split("; ")
    yield from (one for one in labels if one.endswith(_CHOSEN))
    if not all(one.endswith(_CHOSEN) for one in labels):
        yield f"`{parse_mitigation(row['words']).word()}`"


def _cell(row: Found, p: float | None) -> str:
    off = row["curve_difference"]["chair_s"]
    over = [one["better"] for one in row["over"].values()]
    beaten = f" · {sum(over)}/{len(over)}" if over else ""
    if off["estimate"] is None:
        return _OFF + beaten
    said = f"{100 * off['estimate']:+.1f}"
    interval = f" [{100 * off['low']:.1f}, {100 * off['high']:.1f}]"
    return (f"**{said}**" if stands(p) else said) + interval + beaten


def _rank(found: Mapping[int, float | None], places: int) -> tuple[bool, bool, float]:
    on_curve = [one for one in found.values() if one is not None]
    mean = sum(on_curve) / len(on_curve) if on_curve else 0.0
    return len(found) < places and len(found) == 1, len(on_curve) < len(found), mean
