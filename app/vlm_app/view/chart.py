"""What a setting did on many scenes, as a small chart beside the form: objects found against captions that invent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

FILE = "league.json"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _EDGE = 320, 170, 34, 30, 10
_STEP = 10  # percent between two ticks
_FAR = 30  # percent of the objects: settings that find so many fewer do not stretch the chart


@cache
def league() -> Mapping[str, Any]:
    """Return what was measured: about it, the plain model, and every setting."""
    found: Mapping[str, Any] = json.loads(files("vlm_app").joinpath("assets", FILE).read_text("utf-8"))
    return found


def measured(words: Sequence[str]) -> Mapping[str, Any] | None:
    """Return what was measured of exactly this setting; None where it was not."""
    return next((row for row in league()["settings"] if row["words"] == list(words)), None)


def alike(words: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the other settings of the same methods."""
    names = [word.partition(":")[0] for word in words]
    same = [row for row in league()["settings"] if [word.partition(":")[0] for word in row["words"]] == names]
    return [row for row in same if row["words"] != list(words)]


def chart(words: Sequence[str], model: str) -> str:
    """Return the chart of a setting with what it says in a sentence, as HTML.

    Args:
        words: of the setting, each as its method writes it.
        model: that is loaded; the scenes were described by the league's.
    """
    found = league()
    own = measured(words) if words else None
    marked = [own] if own is not None else alike(words)
    title = f"What this setting did on {found['scenes']} scenes"
    said = [told(words), *([] if model == found["model"] else [_other_model(model)])]
    return (
        f'<figure class="vh-chart"><figcaption>{escape(title)}</figcaption>{_drawn(marked, exact=own is not None)}'
        f"{''.join(f'<p>{escape(one)}</p>' for one in said)}</figure>"
    )


def told(words: Sequence[str]) -> str:
    """Return what was measured of a setting, in a sentence or two."""
    plain = league()["plain"]
    if not words:
        return f"Nothing is attached: {_both(plain)}."
    own = measured(words)
    if own is None:
        others = ", ".join(" ".join(row["words"]) for row in alike(words))
        return "This setting was not measured." + (f" Of the same methods were: {others}." if others else "")
    return f"{_both(own)}; plain: {_both(plain)}. {_verdict(own)} Time: {own['time']:.2f} of the plain answer's."


def _both(row: Mapping[str, Any]) -> str:
    return f"{row['chair_s']:.1f} % of the captions invent something, {row['recall']:.1f} % of the objects are found"


def _verdict(row: Mapping[str, Any]) -> str:
    """Return whether the plain model could have the same by saying less or more."""
    off = row["at_equal_recall"]
    if off is None:
        return "No plain answers of any length find as much."
    interval = f"{off['estimate']:+.1f} points [{off['low']:.1f}, {off['high']:.1f}]"
    if off["low"] <= 0 <= off["high"]:
        return f"Against plain answers that find as much: {interval}, which cannot be told from no difference."
    return (
        f"Against plain answers that find as much: {interval}, {'fewer' if off['high'] < 0 else 'more'} than by chance."
    )


def _other_model(model: str) -> str:
    found = league()
    return f"Measured with {found['model']}, not with {model}: another model may do otherwise."


def _drawn(marked: Sequence[Mapping[str, Any]], *, exact: bool) -> str:
    """Return every measured setting as a faint dot, plain as a ring, and the marked ones."""
    found = league()
    # a method that finds next to nothing would squeeze the others into a corner: its dot lies on the edge
    near = [row for row in found["settings"] if row["recall"] > found["plain"]["recall"] - _FAR]
    rows = [found["plain"], *near, *marked]
    across = _Scale([row["recall"] for row in rows], _LEFT, _WIDTH - _EDGE)
    up = _Scale([row["chair_s"] for row in rows], _HEIGHT - _BOTTOM, _EDGE)
    ticks = [_tick(across.at(value), _HEIGHT - _BOTTOM + 12, value, "middle") for value in across.ticks]
    ticks += [_tick(_LEFT - 5, up.at(value) + 3, value, "end") for value in up.ticks]
    dots = [_dot(row, across, up, "vh-any", 2.5) for row in found["settings"]]
    dots += [_dot(found["plain"] | {"words": ["plain"]}, across, up, "vh-plain-dot", 5)]
    dots += [_dot(row, across, up, "vh-this" if exact else "vh-alike", 5) for row in marked]
    axis = f"M{_LEFT} {_EDGE}V{_HEIGHT - _BOTTOM}H{_WIDTH - _EDGE}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Objects found, across, against captions that '
        f'invent something, up; the lower right is best"><path d="{axis}"/>{"".join(ticks)}{"".join(dots)}'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 4}" text-anchor="end">objects found, %</text>'
        f'<text x="{_LEFT + 5}" y="{_EDGE + 4}">captions that invent, %</text></svg>'
        '<p class="vh-scale"><i class="vh-key vh-plain-dot"></i>plain'
        f'<i class="vh-key {"vh-this" if exact else "vh-alike"}"></i>'
        f'{"this setting" if exact else "same methods, other options"}<i class="vh-key vh-any"></i>others</p>'
    )


class _Scale:
    """From percent to pixels, over whole tens."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low = int(min(values) // _STEP) * _STEP
        self.high = -int(-max(values) // _STEP) * _STEP
        self._start, self._end = start, end
        self.ticks = range(self.low, self.high + 1, _STEP)

    def at(self, value: float) -> float:
        """Return where a value lies; beyond the scale on its edge."""
        value = min(max(value, self.low), self.high)
        return self._start + (value - self.low) / (self.high - self.low) * (self._end - self._start)


def _tick(x: float, y: float, value: int, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{value}</text>'


def _dot(row: Mapping[str, Any], across: _Scale, up: _Scale, kind: str, radius: float) -> str:
    title = escape(f"{' '.join(row['words'])}: {_both(row)}")
    place = f'cx="{across.at(row["recall"]):.1f}" cy="{up.at(row["chair_s"]):.1f}"'
    return f'<circle class="{kind}" {place} r="{radius}"><title>{title}</title></circle>'
