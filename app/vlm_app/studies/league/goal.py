"""The goal, over one league or several: which setting reaches it, and what the others miss.

A setting reaches it where, on every split of every model, it lowers CHAIR_S and CHAIR_I over distinct objects by at
least 30 % at equal recall with intervals below zero, is better than each of its own controls, and takes at most 1.5
times plain's time per caption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vlm_app.studies.chosen import CAPTIONS
from vlm_app.studies.league.cells import called, folded, line
from vlm_app.studies.league.evidence import FIGURES
from vlm_heads import parse_mitigation

FALL = 0.30  # share of the plain model's inventions at equal recall
TIMES = 1.5  # plain's time per caption
NAMED = 2  # places that a reason names; the others are counted
SHOWN = 5  # settings that are shown; the others are folded away

Found = Mapping[str, Any]
Timed = Mapping[tuple[str, str], float]

_NOTES = f"""The goal: one setting that lowers CHAIR_S and CHAIR_I over distinct objects by at least {FALL:.0%} at equal
recall on every split of every model, with intervals below zero, is better than each of its controls, and takes at most
{TIMES} times plain's time per caption. A change is the difference from the plain model's curve as a share of the curve
at the setting's recall, with its 95 % bootstrap interval. A setting is better than a control where both figures lie
lower by more than their paired interval, each at its own recall. Where one of the two left the curve they are compared
as they are, and the setting must not find fewer objects either. A setting without a control that was played does not
reach the goal."""


_TIMED = """Where a setting's time was measured by taking turns with plain (`vlm-heads bench captions`), that stands in
place of the seconds of a league, whose machine did other work. It is the same for all seeds and scenes of a model."""


@dataclass(frozen=True)
class Place:
    """A setting on one split of one model.

    Attributes:
        model: its name.
        split: of the embedded world.
        relative: figure -> change at equal recall as a share, with its interval.
        over: control's label -> whether the setting is better.
        times: seconds per caption over plain's.
    """

    model: str
    split: str
    relative: Mapping[str, Found]
    over: Mapping[str, bool]
    times: float

    @property
    def said(self) -> str:
        """Where that is, in words."""
        return f"{self.model}, {self.split}"

    @property
    def reached(self) -> bool:
        """Whether nothing is missed here."""
        return not any(True for _ in self.misses())

    def falls(self, figure: str) -> bool:
        """Whether a figure falls far enough, with its interval below zero."""
        change = self.relative[figure]
        return change["estimate"] is not None and change["estimate"] <= -FALL and change["high"] < 0

    def misses(self) -> Iterator[tuple[str, str]]:
        """Yield what is missed here: (what, how much and where)."""
        for figure, name in FIGURES.items():
            change = self.relative[figure]
            if change["estimate"] is None:
                yield f"no change of {name} at equal recall can be told", self.said
                continue
            if change["estimate"] > -FALL:
                yield f"{name} does not fall by {FALL:.0%}", f"{_share(change['estimate'])} on {self.said}"
            if change["high"] >= 0:
                yield f"the interval of {name} does not lie below 0", self.said
        for control, better in self.over.items():
            if not better:
                yield f"it is not better than its {control}", self.said
        if not self.over:
            yield "no control of it was played", self.said
        if self.times > TIMES:
            yield f"it takes more than {TIMES} times plain's time", f"{self.times:.2f} on {self.said}"


def goal(leagues: Sequence[Found], timed: Timed = MappingProxyType({})) -> str:
    """Return for every setting that was played everywhere whether it reaches the goal, and the numbers behind it.

    Args:
        leagues: each of a model.
        timed: (model, setting) -> times plain, measured by taking turns; in place of a league's own seconds.
    """
    everywhere, others = _settings(leagues, timed)
    ordered = sorted(everywhere.items(), key=lambda item: (-_count(item[1]), _worst(item[1])))
    reached = [name for name, places in ordered if _count(places) == len(places)]
    head = (
        f"**Reached by {'; '.join(reached)}.**"
        if reached
        else f"**Missed by all settings that were played everywhere, {len(ordered)} of {len(ordered) + len(others)}.**"
    )
    shown, rest = ordered[:SHOWN], ordered[SHOWN:]
    first = f"The {len(shown)} that reach it in the most places, and in how many:" if rest else "In how many places:"
    notes = [_NOTES, _TIMED] if timed else [_NOTES]
    body = [f"{first}\n\n{_counts(shown)}", _verdicts(shown)] if shown else []
    left = [folded(f"Not played everywhere, and not judged: {len(others)}", "; ".join(others))] if others else []
    hidden = [folded(f"The other {len(rest)}", _verdicts(rest))] if rest else []
    return "\n\n".join([*notes, head, *body, *hidden, *left, folded("All numbers", _numbers(ordered))])


def _count(places: Sequence[Place]) -> int:
    """Return in how many places the goal is reached."""
    return sum(place.reached for place in places)


def _counts(settings: Sequence[tuple[str, Sequence[Place]]]) -> str:
    """Return a table of how many places each setting reaches the goal in, and each part of it."""
    falls = [f"{name} falls by {FALL:.0%}" for name in FIGURES.values()]
    header = ["setting", "reached", *falls, "better than each control", "time"]
    lines = [line(header), line(["---"] * len(header))]
    for name, places in settings:
        held = [[place.falls(figure) for place in places] for figure in FIGURES]
        held.append([bool(place.over) and all(place.over.values()) for place in places])
        times = sorted({f"{place.times:.2f}" for place in places}, key=float)
        counts = [f"**{_count(places)} of {len(places)}**", *(str(sum(one)) for one in held)]
        lines.append(line([name, *counts, " to ".join(dict.fromkeys((times[0], times[-1])))]))
    return "\n".join(lines)


def _verdicts(settings: Sequence[tuple[str, Sequence[Place]]]) -> str:
    return "\n".join(f"- {name}: {verdict(places)}" for name, places in settings)


def verdict(places: Sequence[Place]) -> str:
    """Return "reached", or "missed, because …" with every reason and where it holds."""
    reasons: dict[str, list[str]] = {}
    for place in places:
        for what, where in place.misses():
            reasons.setdefault(what, []).append(where)
    said = [f"{what} ({_named(where, len(places))})" for what, where in reasons.items()]
    return f"missed, because {'; '.join(said)}." if said else "reached."


def _named(where: Sequence[str], places: int) -> str:
    """Return the first places and how many more there are."""
    more = f"; and {len(where) - NAMED} more of {places}" if len(where) > NAMED else ""
    return "; ".join(where[:NAMED]) + more


def _settings(leagues: Sequence[Found], timed: Timed) -> tuple[dict[str, list[Place]], list[str]]:
    """Return the settings of all splits of all leagues by what they are called, and the names of those of some alone.

    A setting is the same where its words mean the same, whatever it was called.
    """
    found: dict[str, list[Place]] = {}
    names: dict[str, str] = {}
    for league in leagues:
        for measured in league["final"]:
            for name in measured[CAPTIONS]["controls"]:
                row = league["rows"][name]
                if row["role"] == "control":
                    continue
                word = parse_mitigation(row["words"]).word()
                names.setdefault(word, f"{called(row)} `{word}`")
                found.setdefault(word, []).append(_place(league, measured, name, times_in_turns(league, name, timed)))
    splits = sum(len(league["final"]) for league in leagues)
    everywhere = {names[word]: places for word, places in found.items() if len(places) == splits}
    return everywhere, [names[word] for word, places in found.items() if len(places) < splits]


def _kind(league: Found) -> str:
    """Return which model it is, whatever its seed: "mini" of "mini, seed 0"."""
    model: str = league["about"]["model"]
    return model.partition(",")[0]


def times_in_turns(league: Found, name: str, timed: Timed) -> float | None:
    """Return how many times plain's time a row of a league takes, where that was measured by taking turns."""
    return timed.get((_kind(league), parse_mitigation(league["rows"][name]["words"]).word()))


def times_of(measured: Found) -> dict[tuple[str, str], float]:
    """Return (model, setting) -> times plain, of what `vlm-heads bench captions --json` printed."""
    ways = {name: row["ratio"] for name, row in measured["ways"].items() if name != "plain"}
    return {(measured["model"], parse_mitigation(name.split()).word()): ratio for name, ratio in ways.items()}


def _place(league: Found, measured: Found, name: str, timed: float | None) -> Place:
    row, seconds = measured[CAPTIONS]["controls"][name], measured["seconds"]
    over = {_control(league["rows"][control]): one["better"] for control, one in row["over"].items()}
    times = seconds[name] / seconds["plain"] if timed is None else timed
    return Place(league["about"]["model"], measured["split"], row["relative"], over, times)


def _control(row: Found) -> str:
    """Return what a control looks at, as "bottom heads"; the setting's own name is left out."""
    kind = called(row).partition(" of: ")[0]
    return f"control, {kind.removeprefix('control, ')}"


def _worst(places: Sequence[Place]) -> float:
    """Return the least fall of CHAIR_S over all places; those without a number come last."""
    changes = [place.relative["chair_s"]["estimate"] for place in places]
    return max(float("inf") if change is None else change for change in changes)


def _numbers(settings: Sequence[tuple[str, Sequence[Place]]]) -> str:
    """Return a table with a row for each setting, model and split."""
    header = ["setting", "model", "scenes", *(f"{name}, change" for name in FIGURES.values()), "better than", "time"]
    lines = [line(header), line(["---"] * len(header))]
    for name, places in settings:
        for place in places:
            changes = [_change(place.relative[figure]) for figure in FIGURES]
            lines.append(line([name, place.model, place.split, *changes, _better(place.over), f"{place.times:.2f}"]))
    return "\n".join(lines)


def _change(change: Found) -> str:
    """Return a change with its interval, and on which side of zero that lies."""
    if change["estimate"] is None:
        return "–"
    side = "below 0" if change["high"] < 0 else "above 0" if change["low"] > 0 else "holds 0"
    return f"{_share(change['estimate'])} [{100 * change['low']:.0f}, {100 * change['high']:.0f}], {side}"


def _better(over: Mapping[str, bool]) -> str:
    if not over:
        return "no control"
    missed = [control.removeprefix("control, ") for control, better in over.items() if not better]
    return f"{len(over) - len(missed)} of {len(over)}" + (f"; not {', '.join(missed)}" if missed else "")


def _share(value: float) -> str:
    return f"{100 * value:+.0f} %"
