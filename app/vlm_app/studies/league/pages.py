"""The league's pages: tables and what they say, written between two marks of a page; no number is copied by hand.

    vlm-heads study pages runs/league runs/league-1 runs/league-2 --route docs/route_gain.md --effect docs/effect.md

Percent; intervals are 95 % bootstrap intervals over scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlm_evals.errors import TaskError
from vlm_evals.records import read_json

from vlm_app.blocks import write_block
from vlm_app.studies.chosen import CAPTIONS, QUESTIONS
from vlm_app.studies.league.cells import called, interval, line, measured_on, percent, title, where
from vlm_app.studies.league.evidence import FIGURES, corrected, stands
from vlm_app.studies.league.field import field_page
from vlm_app.studies.league.goal import Timed, goal, times_in_turns, times_of
from vlm_app.studies.league.route_page import route_page

Found = Mapping[str, Any]

NOTES = """Percent; intervals are 95 % bootstrap intervals over scenes ({resamples:,} resamples). *At equal recall* is
the difference from the plain model's own trade-off curve (end-of-text biases -1 … +2.6), interpolated at the setting's
recall inside each resample; "off the curve" means that the recall lies outside it. *Chosen* settings had the lowest
CHAIR_S at equal recall on validation scenes and were then measured on scenes that nothing was chosen on; the other
methods play at their defaults. A control is the same gain on as many heads, the least vision-aware ones or random ones,
or a check that takes back as many other words. *Words* counts tokens, punctuation included; *repeated* is the share of
mentions that repeat one. *Time* is seconds per caption relative to plain, in batches, on whatever else the machine was
doing; *ms an image* is the same in milliseconds. A time with a star was taken in turns with plain (`vlm-heads bench
captions`).

*After Holm* says whether the difference to its left stands among so many: its p after Holm's correction, the same as
`vlm-heads compare` makes, over all rows of the split that lie on the curve, controls among them, for each figure. It
stands where p is below 0.05. The uncorrected p comes from the same paired resamples at equal recall as the interval:
twice the share of them on the rarer side of zero. `compare` swaps scenes between two runs instead, which cannot be done
at equal recall."""


def results_page(found: Found, timed: Timed = MappingProxyType({})) -> str:
    """Return the league's results as Markdown, headed by when and with what they were measured."""
    facts = found["about"]
    scenes = ", ".join(f"{count} {split}" for split, count in facts["scenes"].items())
    head = (
        f"Measured {where(facts)}: greedy decoding, scenes {scenes}, seed {facts['seed']}, "
        f"{facts['processes']} process(es)."
    )
    notes = NOTES.format(resamples=found["final"][0][CAPTIONS]["resamples"])
    parts = [head, notes, "## What it says", *(summary(found, one) for one in found["final"])]
    parts += ["## The goal", goal([found], timed)]
    for one in found["final"]:
        parts += [f"## {_heading(one)}", table(found, one, timed)]
    if found["sweep"] is not None:
        parts += [f"## {_heading(found['sweep'])}", table(found, found["sweep"], timed)]
    return "\n\n".join(parts) + "\n"


def summary(found: Found, measured: Found) -> str:
    """Return in sentences which rows left the plain model's curve by more than their interval, and which stand still.

    Controls count in Holm's correction and are not named.
    """
    sides: dict[str, list[str]] = {"below": [], "above": [], "within": [], "off": []}
    for name, row in measured[CAPTIONS]["controls"].items():
        off = row["curve_difference"]["chair_s"]
        label = called(found["rows"][name])
        if found["rows"][name]["role"] == "control":
            continue
        side = "off" if off["estimate"] is None else "below" if off["high"] < 0 else "above" if off["low"] > 0 else ""
        sides[side or "within"].append(f"{label} {interval(off)}" if side in ("below", "above") else label)
    words = {
        "below": "invent less than the plain model at equal recall, by more than their interval (CHAIR_S)",
        "above": "invent more",
        "within": "cannot be told from it",
        "off": "left its curve",
    }
    said = [f"{words[side]}: {'; '.join(rows) or 'none'}." for side, rows in sides.items() if rows or side == "below"]
    count = sum(len(rows) for rows in sides.values())
    return (
        f"**{_heading(measured)}.** Of {count} rows, controls aside, these {' These '.join(said)} "
        f"(With intervals of 95 % {0.05 * count:.1f} of {count} rows without any effect would stand out by chance.) "
        f"{_standing(found, measured)}"
    )


def _standing(found: Found, measured: Found) -> str:
    """Return in sentences which settings stand after Holm's correction, by figure."""
    said = []
    for figure, ps in corrected(measured).items():
        names: dict[bool, list[str]] = {True: [], False: []}
        for name, p in ps.items():
            off = measured[CAPTIONS]["controls"][name]["curve_difference"][figure]["estimate"]
            if stands(p) and found["rows"][name]["role"] != "control":
                names[off < 0].append(called(found["rows"][name]))
        count = sum(p is not None for p in ps.values())
        more = f"; inventing more: {'; '.join(names[False])}" if names[False] else ""
        said.append(
            f"After Holm's correction over {count} rows stand, by {FIGURES[figure]}: "
            f"inventing less: {'; '.join(names[True]) or 'none'}{more}."
        )
    return " ".join(said)


def table(found: Found, measured: Found, timed: Timed = MappingProxyType({})) -> str:
    """Return a Markdown table of one split: plain first, then every row, then who could not play and why."""
    chair, pope = measured[CAPTIONS], measured.get(QUESTIONS)
    header = ["setting", "CHAIR_S", "CHAIR_I", "CHAIR_I distinct", "recall", "words", "CHAIR_S at equal recall"]
    header += ["after Holm", "CHAIR_I distinct, equal recall", "distinct, after Holm", "repeated"]
    header += [*(["POPE accuracy", "yes"] if pope else []), "time", "ms an image"]
    asked = [percent(pope["plain"]["accuracy"]), percent(pope["plain"]["yes_ratio"])] if pope else []
    compared = ["0", "", "0", "", percent(chair["plain"]["repeated_mentions"])]
    plain = ["plain (greedy)", *_numbers(chair["plain"]), *compared]
    lines = [line(header), line(["---"] * len(header)), line([*plain, *asked, *_time(measured, "plain")])]
    ps = corrected(measured)
    for name in chair["controls"]:
        row = _row(found, measured, name, {figure: one[name] for figure, one in ps.items()})
        lines.append(line([*row, *_time(measured, name, times_in_turns(found, name, timed))]))
    if measured is not found["sweep"]:
        lines += [line([label, f"n/a: {why}", *[""] * (len(header) - 2)]) for label, why in found["unfit"].items()]
    return "\n".join(lines)


def _row(found: Found, measured: Found, name: str, ps: Mapping[str, float | None]) -> list[str]:
    row, entry = measured[CAPTIONS]["controls"][name], found["rows"][name]
    idle = "; it never acted" if name in measured["idle"] else ""
    cells = [f"{called(entry)}: `{' '.join(entry['words'])}`{idle}", *_numbers(row)]
    for figure, p in ps.items():
        cells += [interval(row["curve_difference"][figure]), _after(p)]
    cells.append(percent(row["repeated_mentions"]))
    if QUESTIONS in measured:
        answered = measured[QUESTIONS]["controls"][name]
        difference = interval(answered["difference"]["accuracy"])
        cells += [f"{percent(answered['accuracy'])} ({difference})", percent(answered["yes_ratio"])]
    return cells


def _after(p: float | None) -> str:
    """Return whether a difference stands after the correction, with its p."""
    return "–" if p is None else f"{'stands' if stands(p) else 'no'}, p {p:.3f}" if p >= 0.001 else "stands, p < 0.001"


def _heading(measured: Found) -> str:
    return title(measured["split"], measured["captions"])


def _time(measured: Found, name: str, in_turns: float | None = None) -> list[str]:
    """Return the time of a caption relative to plain, taken in turns where it was, and in milliseconds."""
    seconds = measured["seconds"]
    ratio = seconds[name] / seconds["plain"] if in_turns is None else in_turns
    return [f"{ratio:.2f}" + ("*" if in_turns is not None else ""), f"{1000 * seconds[name]:.0f}"]


def _numbers(row: Found) -> list[str]:
    names = ("chair_s", "chair_i", "chair_i_distinct", "recall")
    return [*(percent(row[name]) for name in names), f"{row['mean_tokens']:.1f}"]


def write_pages(
    folders: Sequence[Path],
    *,
    results: Path | None = None,
    route: Path | None = None,
    effect: Path | None = None,
    field: Path | None = None,
    times: Sequence[Path] = (),
) -> None:
    """Fill in the blocks of pages from leagues that were played.

    Args:
        folders: of leagues, the shipped model's first.
        results: page of the first league's tables.
        route: page of RouteGain's rows over all leagues.
        effect: page of the goal over all leagues.
        field: page of every setting over all leagues.
        times: what `vlm-heads bench captions --json` printed, for the goal.

    Raises:
        TaskError: if a folder holds no league, or one that an earlier version played, or a page no block.
    """
    missing = [folder for folder in folders if not (folder / "league.json").is_file()]
    if missing:
        raise TaskError(f"{missing[0]} holds no league.json: play it first with vlm-heads study league")
    leagues = [read_json(folder / "league.json") for folder in folders]
    for folder, found in zip(folders, leagues, strict=True):
        if not all("p" in row for one in found["final"] for row in one[CAPTIONS]["controls"].values()):
            raise TaskError(f"{folder} was played by an earlier version: play it again, it keeps its answers")
    timed: dict[tuple[str, str], float] = {}
    for path in times:
        timed |= times_of(_read_times(path))
    if results is not None:
        write_block(results, "league", results_page(leagues[0], timed))
    if route is not None:
        write_block(route, "route", route_page(leagues))
    if effect is not None:
        write_block(effect, "goal", goal_page(leagues, timed))
    if field is not None:
        write_block(field, "field", f"{measured_on(leagues)}\n\n{field_page(leagues)}")


def _read_times(path: Path) -> Found:
    """Return what a file of times holds.

    Raises:
        TaskError: if it is not what `bench captions --json` prints.
    """
    found: Found = read_json(path) if path.is_file() else {}
    if not {"model", "ways"} <= found.keys():
        raise TaskError(f"{path} holds no times of captions: write it by vlm-heads bench captions --json > {path.name}")
    return found


def goal_page(leagues: Sequence[Found], timed: Timed) -> str:
    """Return whether the goal is reached over several leagues, headed by when and with what they were measured."""
    return f"{measured_on(leagues)}\n\n{goal(leagues, timed)}\n"
