"""The part of docs/effect.md about heads, written between two marks from what was measured, no number by hand.

docs/heads/MODEL.json            what was measured
docs/pictures/heads-MODEL-….png  drawn from it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_evals.records import write_json

from vlm_app.blocks import write_block
from vlm_app.studies.heads.pictures import draw_heads

Found = Mapping[str, Any]

KEPT, PICTURES = "heads", "pictures"  # folders beside the page
_DOES = {
    "sees": "see: without them faithful mentions are less likely",
    "affirms": "affirm: without them yes is less likely for what is there",
    "rejects": "reject: without them yes is more likely for what is not there",
    "discerns": "discern: without them yes separates present from absent objects less well",
    "invents": "invent: without them inventions are less likely",
}
_SCORES = {
    "vhd": "VHD",
    "image_mass": "attention on the image",
    "image_route": "what it tells directly from the image",
}
_AIMS = {
    "sees": "faithful mentions",
    "affirms": "present objects",
    "rejects": "rejected absent objects",
    "discerns": "present over absent",
    "invents": "inventions",
}
_KINDS = {
    "faithful": "faithful mentions",
    "invented": "invented mentions",
    "present": "yes over no, present objects",
    "absent": "yes over no, absent objects",
}
_ASPECTS = _KINDS | {"grounding": "faithful less invented", "discernment": "present less absent"}
_GAINS = {"ablation": "switched off", "doubling": "doubled"}
_NOTES = """A head is *switched off* where its output counts 0 times, and *doubled* where it counts twice, one head at a
time. That acts on the question and on the caption; the image's own positions stay as they are. Captions are the model's
own greedy ones and are read again token by token. A mention counts by the log-probability of the token that decides for
its object, the first time a caption names it; a question in POPE's words by the log-odds of yes over no. The captions
are what the plain model likes best, so any change tends to make them less likely, inventions too: what a head does for
grounding shows in faithful less invented. What a head *tells directly* is its output through its slice of the output
projection, the final norm with its scale held, and the output layer: the deciding word over the mean of all words for
objects, or yes over no. Natural units (nats) throughout; intervals are 95 % bootstrap intervals over scenes."""


def write_heads(page: Path, found: Found) -> list[Path]:
    """Fill in the model's block of a page, keep its numbers and pictures beside the page, and return the files.

    Raises:
        TaskError: if the page is there without the block's marks.
    """
    name = found["about"]["model"]
    write_block(page, f"heads-{name}", heads_block(found))
    kept = page.parent / KEPT / f"{name}.json"
    write_json(kept, found)
    return [page, kept, *draw_heads(found, page.parent / PICTURES).values()]


def heads_block(found: Found) -> str:
    """Return what a model's heads do, as Markdown."""
    facts, counts = found["about"], found["counts"]
    plain = "; ".join(
        f"{counts[kind]} {label} ({_interval(found['plain'][kind], signed=False)})"
        for kind, label in _KINDS.items()
        if counts[kind]
    )
    head = (
        f"Measured on {facts['date']} on {facts['scenes']} {facts['split']} scenes, seed {facts['seed']}: "
        f"{facts['layers']} layers of {facts['heads']} heads, weights {facts['weights']}. Places where the model "
        f"decides, with what the plain model gives them: {plain}."
    )
    parts = [f"### What the heads of `{facts['model']}` do", head, _NOTES]
    parts += ["\n".join(f"- {one}" for one in sentences(found))]
    parts += [_picture(found, "maps"), _picture(found, "routes")]
    parts += [_strongest(found), "**Do scores name the heads that matter?** " + _RANKED, _ranking(found)]
    parts += ["**The vision-aware half of each layer against the least aware one.** " + _HALVED, _bands(found)]
    parts += ["**All at once.** " + _TOGETHER, _together(found)]
    return "\n\n".join(parts) + "\n"


def sentences(found: Found) -> list[str]:
    """Return what the numbers say, most important first."""
    said = [
        _matter(found),
        _ranked(found),
        _doubled(found),
        _answered(found),
        _at_once(found),
        _carried(found),
        _inventing(found),
    ]
    return [one for one in said if one]


def _matter(found: Found) -> str:
    best, first = found["at_their_best"], found["strongest"]["sees"]
    if not first:
        return ""
    named = ", ".join(f"{_name(one)} ({_interval(one['change'])})" for one in first[:3])
    return (
        f"Of {best['heads']} heads, {best['matter']} matter for faithful mentions, where {best['by_chance']:.0f} would "
        f"by chance: switched off, they make these less likely by more than their interval. The strongest are {named}. "
        f"Doubled, {best['doubling_helps']} of the {best['matter']} make faithful mentions more likely by more than "
        f"their interval, and {best['doubling_harms']} less."
    )


def _ranked(found: Found) -> str:
    row = _row(found, "vhd", "sees", "ablation")
    inside = row["within_layers"]
    if inside["estimate"] is None:
        return ""
    best = max(
        (_row(found, name, "sees", "ablation") for name in _SCORES),
        key=lambda one: one["within_layers"]["estimate"] or -1.0,
    )
    verdict = _side(
        inside,
        "VHD ranks heads by what they do for faithful mentions better than chance",
        "VHD cannot be said to rank the heads of a layer by what they do for faithful mentions",
        "VHD ranks the heads of a layer the wrong way round",
    )
    most = f" Of the scores, {_SCORES[best['score']]} ranks them best." if best is not row else ""
    halves = row["halves"]["within_layers"]
    limit = "" if halves is None else f" One half of the scenes ranks them by the other's with {halves:+.2f}."
    return (
        f"{verdict}: Spearman's correlation is {_interval(inside)} within a layer and {_interval(row['all'])} over all "
        f"heads.{limit}{most}"
    )


def _doubled(found: Found) -> str:
    return _of_upper(
        found, "invented", "grounding", "to faithful mentions", "to invented ones",
        ("so faithful mentions become likelier than inventions", "so inventions become likelier than faithful ones"),
    )  # fmt: skip


def _answered(found: Found) -> str:
    return _of_upper(
        found, "absent", "discernment", "to the log-odds of yes for present objects", "to those for absent ones",
        ("so yes tells them apart better", "so yes tells them apart worse"),
    )  # fmt: skip


def _of_upper(found: Found, wrong: str, contrast: str, to_right: str, to_wrong: str, sides: tuple[str, str]) -> str:
    """Return what doubling one head of the upper half by VHD adds to what is right and to what is wrong."""
    upper, lower = (found["bands"][0]["doubling"][half] for half in ("upper", "lower"))
    right = {"grounding": "faithful", "discernment": "present"}[contrast]
    if upper[contrast]["estimate"] is None:
        return ""
    verdict = _side(upper[contrast], sides[0], "and the two changes cannot be told apart", sides[1])
    return (
        f"Doubling one head of a layer's vision-aware half adds {_interval(upper[right])} {to_right} on average and "
        f"{_interval(upper[wrong])} {to_wrong}, {verdict} ({_interval(upper[contrast])}). Of the least aware heads it "
        f"adds {_interval(lower[right])} and {_interval(lower[wrong])}."
    )


def _at_once(found: Found) -> str:
    whole = found["together"]["doubling"]["upper"]
    at_once, alone = whole["at once"], whole["sum"]
    if at_once["faithful"]["estimate"] is None:
        return ""
    said = [
        f"{_interval(at_once[aspect])} to {label} (one by one they add up to {_interval(alone[aspect])})"
        for aspect, label in (("faithful", "faithful mentions"), ("invented", "inventions"))
        if at_once[aspect]["estimate"] is not None
    ]
    return f"Doubled all at once on VHR's layers, the vision-aware heads add {' and '.join(said)}."


def _carried(found: Found) -> str:
    """Return which route carries mentions."""
    told = {kind: found["directly"][kind] for kind in ("faithful", "invented") if found["counts"][kind]}
    parts = [
        f"to {kind} mentions {_interval(one['image'])} through the image's keys and {_interval(one['text'])} through "
        "all others"
        for kind, one in told.items()
    ]
    return f"All heads together tell directly {'; '.join(parts)}." if parts else ""


def _inventing(found: Found) -> str:
    first = found["strongest"]["invents"][:3]
    if not first:
        return ""
    named = ", ".join(
        f"{_name(one)} ({_interval(one['change'])}; it tells {one['image']:+.2f} from the image and {one['text']:+.2f} "
        f"from text; number {one['vhd_rank']} of its layer by VHD)"
        for one in first
    )
    return f"Inventions lean most on {named}."


def _strongest(found: Found) -> str:
    rows = [
        (
            _DOES[does] if number == 0 else "", _name(one), _interval(one["change"]), _interval(one["doubling"]),
            one["vhd_rank"], f"{one['image']:+.2f}", f"{one['text']:+.2f}",
        )
        for does, listed in found["strongest"].items()
        for number, one in enumerate(listed)
    ]  # fmt: skip
    header = ("heads that", "layer.head", "switched off", "doubled", "by VHD", "tells: from the image", "from text")
    return _table(header, rows)


def _ranking(found: Found) -> str:
    rows = []
    for does, aim in _AIMS.items():
        for gain, label in _GAINS.items():
            scored = [_row(found, score, does, gain) for score in _SCORES]
            cells = [_interval(row["within_layers"]) for row in scored]
            rows.append((aim, label, *cells, _plain(scored[0]["halves"]["within_layers"])))
    return _table(("what a head does for", "measured", *_SCORES.values(), "halves"), rows)


def _bands(found: Found) -> str:
    rows = []
    for band in found["bands"]:
        first, last = band["layers"]
        for gain, label in _GAINS.items():
            for half, name in (("upper", "vision-aware"), ("difference", "over the least aware")):
                cells = [_interval(band[gain][half][aspect]) for aspect in _ASPECTS]
                rows.append((f"{first} to {last}", label, name, *cells))
    return _table(("layers", "one head", "half", *_ASPECTS.values()), rows)


def _together(found: Found) -> str:
    rows = [
        (label, name, {"at once": "all at once", "sum": "one by one, added up"}[how], *cells)
        for gain, label in _GAINS.items()
        for half, name in (("upper", "vision-aware"), ("lower", "least aware"))
        for how, one in found["together"][gain][half].items()
        if (cells := [_interval(one[aspect]) for aspect in _ASPECTS])
    ]
    return _table(("", "heads", "", *_ASPECTS.values()), rows)


_TOGETHER = (
    "The heads that VHR takes, by each scene's own VHD on the layers of its paper, and as many of the least aware, "
    "against the sum of what each adds alone. VHR also acts on the image's own positions, and filters outliers."
)
_RANKED = (
    "Spearman's correlation of a score with what a head does, within a layer: what switching it off takes, or doubling "
    "it adds. *Halves*: even scenes against odd ones, which says how much of the ranking is noise. Resampling scenes "
    "adds noise of its own, so these intervals lie low."
)
_HALVED = (
    "What one head's gain adds, on average over the heads above their layer's median VHD, which VHR takes, and over as "
    "many with the lowest VHD."
)


def _row(found: Found, score: str, does: str, gain: str) -> Mapping[str, Any]:
    wanted = (score, does, gain)
    return next(row for row in found["ranking"] if (row["score"], row["does"], row["gain"]) == wanted)


def _side(one: Mapping[str, Any], above: str, within: str, below: str) -> str:
    """Return one of three sentences: an interval above zero, round it, or below."""
    if one["estimate"] is None or one["low"] <= 0 <= one["high"]:
        return within
    return above if one["low"] > 0 else below


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['layer']}.{one['head']}"


def _picture(found: Found, what: str) -> str:
    name = found["about"]["model"]
    alternative = {"maps": "what every head does", "routes": "which route tells mentions"}[what]
    return f"![{name}: {alternative}]({PICTURES}/heads-{name}-{what}.png)"


def _interval(one: Mapping[str, Any], *, signed: bool = True) -> str:
    if one["estimate"] is None:
        return "–"
    sign = "+" if signed else ""
    return f"{one['estimate']:{sign}.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in lines)
