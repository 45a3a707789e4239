"""What is shown of a run, in plain words: for the titles of files, and for lines that `html` only has to escape."""

from __future__ import annotations

from vlm_app.view.facts import HeadMap, LookedAt, Patches, Strip
from vlm_app.view.receipts import Deed
from vlm_app.view.side_by_side import Side
from vlm_heads import TokenGrounding


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
        return "This model has no attention sinks: no channel of its hidden states stands out, so none is outlined."
    number = 0 if found.sinks is None else int((found.sinks > 0).sum())
    return f"Outlined: {count(number, 'image sink')}, by channel {', '.join(map(str, found.channels))}."


def deed(one: Deed) -> str:
    """Return what an intervention did: layers, heads, and how much weight it moved."""
    parts = [count(one.layers, "layer")] + ([count(one.heads, "head")] if one.heads else [])
    if one.sink_share is not None:
        parts.append(f"{100 * one.sink_share:.0f} % of the sinks' mass moved")
    elif one.mass_moved is not None:
        parts.append(f"attention mass {one.mass_moved:.1f} moved, over all heads and steps")
    return f"{one.name}: {', '.join(parts)}"


def token(strip: Strip, one: TokenGrounding) -> str:
    """Return a token, its T-VHD, and whether it names what is not in the picture."""
    return f"{one.text.strip()}, T-VHD {one.t_vhd:.2f}" + (", not in the picture" if strip.absent(one) else "")


def head(found: HeadMap, layer: int, place: int) -> str:
    """Return a head, its VHD, and whether an intervention acted on it."""
    acted = ", acted on" if (layer, place) in found.acted else ""
    return f"layer {layer}, head {place}, VHD {float(found.scores[layer, place]):.3f}{acted}"


def patch(position: int, weight: float, sink_layers: int) -> str:
    """Return an image position, the weight that was taken from it, and whether it is a sink."""
    sink = f"; a sink in {count(sink_layers, 'layer')}" if sink_layers else ""
    return f"patch {position}: {weight:.4f}{sink}"


def speed(side: Side) -> str:
    """Return how fast an answer came."""
    if not side.tokens:
        return "" if side.done else "waiting"
    return f"{side.seconds:.2f} s · {count(side.tokens, 'token')} · {side.rate:.0f} tokens/s"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
