"""The card of a reinforced profile: what it does, where it comes from, what was measured, for people who find it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def profile_card(card: Mapping[str, Any], gains: Tensor | None) -> str:
    """Return Markdown about a profile.

    Args:
        card: see `HeadProfile`.
        gains: float32 `[L, Hq]`, or None for scores alone.
    """
    if gains is None:
        return "# Head profile\n\nHow much each attention head looks at the image (VHD), for vlm-heads.\n"
    changed = int((gains != 1).sum())
    lines = [
        "# Reinforced profile",
        "",
        f"Static gains on {changed} of {gains.numel()} attention heads, {_span(gains)}, the same for every image; made "
        "with vlm-heads. It is not VHR, which chooses its heads for each image anew, and has to be judged by its own "
        "figures.",
        "",
        *(f"- {name}: {value}" for name, value in _origin(card)),
        "",
        *_measured(card),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _span(gains: Tensor) -> str:
    return f"from {float(gains.min()):g} to {float(gains.max()):g}"


def _origin(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("model", card.get("model")), ("revision", card.get("revision")), ("weights", card.get("weights"))]
    found += [("setting", _setting(card.get("setting"))), ("data", _files(card.get("data")))]
    found += [(f"protocol, {name}", value) for name, value in dict(card.get("protocols", {})).items()]
    return [(name, str(value)) for name, value in found if value]


def _setting(setting: Mapping[str, Any] | None) -> str | None:
    return None if setting is None else ", ".join(f"{name} {value}" for name, value in setting.items())


def _files(data: Mapping[str, str] | None) -> str | None:
    return None if data is None else ", ".join(f"{name} (SHA-256 {value})" for name, value in data.items())


def _measured(card: Mapping[str, Any]) -> list[str]:
    """Return the verdict and the measured table; a sentence where there are none."""
    rows: Sequence[Mapping[str, Any]] = card.get("measured", ())
    if not rows:
        return ["Nothing was measured with these gains."]
    benefit = (
        "A benefit was shown on data that nothing was chosen on."
        if card.get("benefit")
        else "**No benefit was shown.** The profile was written all the same, because that was asked for."
    )
    table = ["| metric | plain | reinforced | difference, 95 % interval |", "|---|---|---|---|"]
    for row in rows:
        spread = _interval(row["difference"], row["low"], row["high"])
        table.append(f"| {row['metric']} | {_figure(row['plain'])} | {_figure(row['reinforced'])} | {spread} |")
    return [benefit, "", *table]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "–" if value is None or low is None or high is None else f"{value:+.3f} [{low:.3f}, {high:.3f}]"
