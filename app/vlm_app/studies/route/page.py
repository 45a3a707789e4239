"""What a gain on the image's route does, as a block of docs/route_gain.md; no number by hand.

docs/route/MODEL.json         what was measured
docs/pictures/route-MODEL.png drawn from it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_evals.records import write_json

from vlm_app.blocks import write_block
from vlm_app.studies.league.cells import table
from vlm_app.studies.route.pictures import draw_route

Found = Mapping[str, Any]

KEPT, PICTURES = "route", "pictures"  # folders beside the page
_KINDS = {
    "faithful": "faithful mention",
    "invented": "invented mention",
    "apart": "faithful less invented",
    "present": "yes over no, present",
    "absent": "yes over no, absent",
    "other": "other word",
}
_CLASSES = {
    "said": "the word said",
    "present": "other objects of the picture",
    "again": "objects named before",
    "absent": "objects that are not there",
    "end": "the end",
    "other": "all other words",
}
_PLACES = {"faithful": "at faithful mentions", "invented": "at invented mentions", "stop": "behind a full stop"}


def write_route(page: Path, found: Found) -> list[Path]:
    """Fill in the model's block of a page, keep its numbers and picture beside the page, and return the files.

    Raises:
        TaskError: if the page is there without the block's marks.
    """
    name = found["about"]["model"]
    write_block(page, f"route-{name}", route_block(found))
    kept = page.parent / KEPT / f"{name}.json"
    write_json(kept, found)
    return [page, kept, draw_route(found, page.parent / PICTURES)]


def route_block(found: Found) -> str:
    """Return what was found as Markdown."""
    about = found["about"]
    head = (
        f"`{about['model']}` (weights {about['weights']}), {about['scenes']} {about['split']} scenes, the image's "
        f"route times {about['gain']:g} on all heads of the layers named."
    )
    picture = (
        f"![What the gain does, layer by layer, and where probability goes]({PICTURES}/route-{about['model']}.png)"
    )
    said = "\n".join(f"- {one}" for one in sentences(found))
    return "\n\n".join([head, said, picture, _changes(found), _shares(found)])


def sentences(found: Found) -> list[str]:
    """Return in sentences what the gain does to mentions, which layers bear it, where it goes, and what arrives."""
    whole = found["changes"]["all"]
    lines = [
        f"On all layers a faithful first mention changes by {_nats(whole['faithful'])}, an invented one by "
        f"{_nats(whole['invented'])}. {_apart(whole['apart'])}"
    ]
    lines += _bands(found)
    lines += [_moved(kind, found["shares"][kind]) for kind in ("faithful", "invented") if kind in found["shares"]]
    if "stop" in found["shares"]:
        end = found["shares"]["stop"]["end"]
        lines.append(
            f"Behind a full stop the caption ends with a probability of {_percent(end['plain'])} without the gain, and "
            f"the gain changes that by {_points(end['change'])}."
        )
    return [*lines, *_arrived(found["direct"]["all"]["faithful"])]


def _apart(apart: Mapping[str, float] | None) -> str:
    """Return in a sentence whether the gain tells faithful from invented mentions."""
    if apart is None:
        return "Faithful and invented mentions cannot be compared: one of the two is missing."
    if apart["low"] > 0:
        return f"So it moves the two apart, by {_figure(apart)}, as it should."
    if apart["high"] < 0:
        return f"So it brings the two closer, by {_figure(apart)}: the wrong way."
    return f"The difference of the two, {_figure(apart)}, cannot be told from zero."


def _bands(found: Found) -> list[str]:
    """Return which layers move mentions apart when they are gained alone, and what the layers add up to."""
    bands = [(band, found["changes"][f"band {number}"]["apart"]) for number, band in enumerate(found["about"]["bands"])]
    told = [(band, apart) for band, apart in bands if apart is not None]
    whole = found["changes"]["all"]["apart"]
    if not told or whole is None:
        return []
    best = max(told, key=lambda one: one[1]["estimate"])
    clear = [_named(band) for band, apart in told if apart["low"] > 0]
    total = sum(apart["estimate"] for _, apart in told)
    return [
        f"Gained alone, {_named(best[0])} moves them apart most, by {_figure(best[1])}; with an interval above zero: "
        f"{', '.join(clear) or 'none'}. One by one they add up to {total:+.2f}, and all at once give "
        f"{whole['estimate']:+.2f}."
    ]


def _moved(kind: str, shares: Mapping[str, Mapping[str, Any]]) -> str:
    """Return where probability goes at one kind of mention, the largest move first."""
    moves = sorted(_CLASSES, key=lambda name: -abs(shares[name]["change"]["estimate"]))
    said = ", ".join(f"{_CLASSES[name]} {_points(shares[name]['change'])}" for name in moves[:4])
    return f"Of the probability {_PLACES[kind]}, in points: {said}."


def _arrived(direct: Mapping[str, Any]) -> list[str]:
    """Return what the extra route tells faithful words directly, and what of that arrives behind the last layer."""
    told, came = direct["told"], direct["came"]
    if told is None or came is None:
        return []
    return [
        f"Directly, the extra route would raise a faithful word over the words of all objects by {_figure(told)}. With "
        f"what later layers and the last norm make of it, the change is {_figure(came)}."
    ]


def _changes(found: Found) -> str:
    """Return a table of changes: a row for each band, and one for all layers."""
    rows = [("all", "all layers"), *((f"band {at}", _layers(band)) for at, band in enumerate(found["about"]["bands"]))]
    kinds = [kind for kind in _KINDS if any(found["changes"][name][kind] is not None for name, _ in rows)]
    header = ["gained", *(_KINDS[kind] + _count(found, kind) for kind in kinds)]
    lines = []
    for name, label in rows:
        cells = (found["changes"][name][kind] for kind in kinds)
        lines.append([label, *("–" if cell is None else _figure(cell) for cell in cells)])
    return table(header, lines)


def _count(found: Found, kind: str) -> str:
    return f" ({found['counts'][kind]})" if kind in found["counts"] else ""


def _shares(found: Found) -> str:
    """Return a table of probabilities in percent: a row for each class of words, plain and the change."""
    kinds = list(found["shares"])
    header = ["probability in percent, and its change", *(f"{_PLACES[kind]}{_count(found, kind)}" for kind in kinds)]
    lines = []
    for name, label in _CLASSES.items():
        cells = [found["shares"][kind][name] for kind in kinds]
        lines.append([label, *(f"{_percent(one['plain'])}, {_points(one['change'])}" for one in cells)])
    return table(header, lines)


def _named(band: Sequence[int]) -> str:
    """Return the layers of a band with their noun."""
    return f"layer {_layers(band)}" if band[0] == band[1] else f"the band {_layers(band)}"


def _layers(band: Sequence[int]) -> str:
    first, last = band
    return str(first) if first == last else f"{first} to {last}"


def _figure(found: Mapping[str, float]) -> str:
    return f"{found['estimate']:+.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _nats(found: Mapping[str, float] | None) -> str:
    return "nothing (there is none)" if found is None else f"{_figure(found)} nats"


def _percent(found: Mapping[str, float]) -> str:
    return f"{100 * found['estimate']:.1f}"


def _points(found: Mapping[str, float]) -> str:
    return f"{100 * found['estimate']:+.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
