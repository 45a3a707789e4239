"""RouteGain over several leagues: what each model's validation scenes say of it, and what it does on the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlm_app.studies.chosen import CAPTIONS, QUESTIONS
from vlm_app.studies.league.cells import called, folded, interval, measured_on, percent, table, title
from vlm_heads import RouteGain, parse_intervention

Found = Mapping[str, Any]
Said = tuple[str, ...]

_HEADER = (
    "model", "setting", "CHAIR_S at equal recall", "CHAIR_I distinct, equal recall", "CHAIR_S", "recall", "repeated",
    "POPE accuracy",
)  # fmt: skip
_SWEEP = """CHAIR_S at equal recall on the validation scenes that chose, in points; below zero is better, **bold** is
the lowest of its model, and *off* left the plain model's curve. Among so many settings the lowest flatters itself: what
it is worth stands in the tables of other scenes."""


def route_page(leagues: Sequence[Found]) -> str:
    """Return RouteGain's settings and controls over several leagues, one model each; of a split, those that played it.

    Args:
        leagues: each of a model.
    """
    parts = [measured_on(leagues)]
    swept = [found for found in leagues if found["sweep"] is not None]
    if swept:
        parts += ["### What validation says", _SWEEP, *(f"`{_model(found)}`:\n\n{_sweep(found)}" for found in swept)]
    for split in dict.fromkeys(measured["split"] for found in leagues for measured in found["final"]):
        played = [(found, one) for found in leagues for one in found["final"] if one["split"] == split]
        rows = [row for found, measured in played for row in _rows(found, measured)]
        parts += [f"### {title(split)}", _side_by_side(played), folded("All numbers", table(_HEADER, rows))]
    return "\n\n".join(parts) + "\n"


def _model(found: Found) -> str:
    model: str = found["about"]["model"]
    return model


def _routes(found: Found, measured: Found) -> Iterator[tuple[str, Found, Found]]:
    """Yield RouteGain's rows of a split: (name, entry, what was measured); combinations with others are left out."""
    for name, row in measured[CAPTIONS]["controls"].items():
        entry = found["rows"][name]
        if [word.partition(":")[0] for word in entry["words"]] == [RouteGain.name]:
            yield name, entry, row


def _sweep(found: Found) -> str:
    """Return a table of the validation scenes: a row for what acts where, a column for each gain."""
    cells: dict[Said, dict[float, float | None]] = {}
    for _, entry, row in _routes(found, found["sweep"]):
        gain, said = _setting(entry["words"][0])
        cells.setdefault(said, {})[gain] = row["curve_difference"]["chair_s"]["estimate"]
    gains = sorted({gain for one in cells.values() for gain in one})
    lowest = min((value for one in cells.values() for value in one.values() if value is not None), default=None)
    rows = [
        [*said, *("" if gain not in one else _change(one[gain], one[gain] == lowest) for gain in gains)]
        for said, one in sorted(cells.items())
    ]
    return table(["heads", "layers", "beside", *(f"gain {gain:g}" for gain in gains)], rows)


def _setting(word: str) -> tuple[float, Said]:
    """Return a setting's gain, and what else it says: (heads, layers, beside)."""
    route: Any = parse_intervention(word)
    beside = [] if route.slope == "flat" else [route.slope]
    beside += [] if route.generated == 1.0 else [f"generated {route.generated:g}"]
    layers = route.layers if isinstance(route.layers, str) else "+".join(map(str, route.layers))
    return route.image, (route.heads, layers, ", ".join(beside))


def _change(value: float | None, lowest: bool) -> str:
    if value is None:
        return "off"
    return f"**{100 * value:+.1f}**" if lowest else f"{100 * value:+.1f}"


def _side_by_side(played: Sequence[tuple[Found, Found]]) -> str:
    """Return a table with a row for each setting or control and a column for each model."""
    cells: dict[str, dict[int, str]] = {}
    for place, (found, measured) in enumerate(played):
        for _, entry, row in _routes(found, measured):
            word = parse_intervention(entry["words"][0]).word()
            cells.setdefault(word, {})[place] = interval(row["curve_difference"]["chair_s"])
    models = [f"{_model(found)}, {measured['captions']}" for found, measured in played]
    ordered = sorted(cells, key=lambda word: (-len(cells[word]), word))  # what most models played comes first
    rows = [[f"`{word}`", *(cells[word].get(place, "") for place in range(len(played)))] for word in ordered]
    return table(["CHAIR_S at equal recall", *models], rows)


def _rows(found: Found, measured: Found) -> list[list[str]]:
    """Return plain's numbers and those of every row of a model."""
    plain, pope = measured[CAPTIONS]["plain"], measured.get(QUESTIONS)
    asked = percent(pope["plain"]["accuracy"]) if pope else "–"
    first = [percent(plain[name]) for name in ("chair_s", "recall", "repeated_mentions")]
    lines = [[_model(found), "plain (greedy)", "0", "0", *first, asked]]
    for name, entry, row in _routes(found, measured):
        off = [interval(row["curve_difference"][metric]) for metric in ("chair_s", "chair_i_distinct")]
        numbers = [percent(row[metric]) for metric in ("chair_s", "recall", "repeated_mentions")]
        answered = interval(pope["controls"][name]["difference"]["accuracy"]) if pope else "–"
        lines.append([_model(found), f"{called(entry)}: `{' '.join(entry['words'])}`", *off, *numbers, answered])
    return lines
