"""What is shown of a run, in plain words: for the titles of files, and for lines that `html` only has to escape."""

from __future__ import annotations

from vlm_app.view.facts import HeadMap, LookedAt, Patches, Strip
from vlm_app.view.receipts import Deed
from vlm_app.view.side_by_side import Side
from vlm_app.view.truth import Judged, Replied


def looked_at(what: LookedAt) -> str:
    """Return which token and which heads are looked at."""
    return f"Patches used for “{what.word}” of the {what.side} answer: {heads(what)}."


def heads(what: LookedAt) -> str:
    """Return which heads are looked at."""
    if what.head is None:
        return "all heads, each counted by its VHD"
    layer, head = what.head
    return f"layer {layer}, head {head}"


def sinks(found: Patches) -> str:
    """Return what is known about the model's sinks."""
    if not found.channels:
        return "this model has none, for no channel of its hidden states stands out; so nothing is outlined."
    number = 0 if found.sinks is None else int((found.sinks > 0).sum())
    known = f"known by channel {', '.join(map(str, found.channels))}"
    if not number:
        return f"none lies in this picture, so nothing is outlined; this model's are {known}."
    return f"{count(number, 'image sink')} outlined, {known}."


def deed(one: Deed) -> str:
    """Return what an intervention did: layers, heads, and how much weight it moved."""
    parts = [count(one.layers, "layer")] + ([count(one.heads, "head")] if one.heads else [])
    if one.sink_share is not None:
        parts.append(f"{100 * one.sink_share:.0f} % of the sinks' mass moved")
    elif one.mass_moved is not None:
        parts.append(f"attention mass {one.mass_moved:.1f} moved, over all heads and steps")
    return f"{one.name}: {', '.join(parts)}"


def token(strip: Strip, number: int) -> str:
    """Return a token, its T-VHD or its use of the patch, and whether it names what is not in the picture."""
    one = strip.tokens[number]
    if strip.used is not None:
        return f"{one.text.strip()}, {100 * strip.used[number]:.1f} % of its attention on this patch"
    place = place_among(sum(other.t_vhd > one.t_vhd for _, other in strip.spoken))
    absent = ", not in the picture" if strip.absent(one) else ""
    return f"{one.text.strip()}, T-VHD {one.t_vhd:.2f}, {place} {count(len(strip.spoken), 'token')}{absent}"


def head(found: HeadMap, layer: int, place: int) -> str:
    """Return a head, its VHD, and whether an intervention acted on it."""
    score = found.scores[layer, place]
    among = f"{place_among(int((found.scores > score).sum()))} {found.scores.size} heads"
    acted = ", acted on" if (layer, place) in found.acted else ""
    return f"layer {layer}, head {place}, VHD {float(score):.3f}, {among}{acted}"


def place_among(larger: int) -> str:
    """Return a place by how many are larger, in words: `the largest of`, `the 3rd largest of`."""
    number = larger + 1
    if number == 1:
        return "the largest of"
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"the {number}{ending} largest of"


def patch(found: Patches, position: int, weight: float) -> str:
    """Return an image position, the share of attention that it gets, and whether it is a sink."""
    row, column = divmod(position, found.grid.columns)
    layers = 0 if found.sinks is None else int(found.sinks[position])
    sink = f"; a sink in {count(layers, 'layer')}" if layers else ""
    return f"patch in row {row + 1}, column {column + 1}: {100 * weight:.1f} % of the attention{sink}"


def on_image(found: Patches, title: str, weight: float) -> str:
    """Return how much of the attention is on the image, in percent."""
    whose = "the attention" if found.looked_at.head is None else "this head's attention"
    gained = ", gains counted in" if title == "Mitigated" else ""
    return f"{100 * weight:.0f} % of {whose} is on the image{gained}"


def reply(one: Replied) -> str:
    """Return whether an answer to a question of yes or no is right, and why."""
    asked = " and ".join(one.asked)
    there = f"{asked}: {'in the picture' if one.right == 'yes' else 'not in the picture'}"
    if one.said == "neither":
        return f"Neither yes nor no, so it counts as wrong ({there})."
    return f"“{one.said}” is {'right' if one.said == one.right else 'wrong'} ({there})."


def true_of(one: Judged | Replied) -> list[str]:
    """Return what is true of an answer, line by line."""
    if isinstance(one, Replied):
        return [reply(one)]
    return [f"{title}: {', '.join(names) or 'nothing'}" for title, names in one.lists]


def speed(side: Side) -> str:
    """Return how fast an answer came."""
    if not side.tokens:
        return "" if side.done else "waiting"
    return f"{side.seconds:.2f} s · {count(side.tokens, 'token')} · {side.rate:.0f} tokens/s"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
