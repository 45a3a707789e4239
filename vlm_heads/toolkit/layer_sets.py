"""Which layers an intervention acts on: a name, or zero-based indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vlm_heads.errors import BadOption, suggest

Layers = str | int | Sequence[int]

LAYER_SETS: Mapping[str, Callable[[int], range]] = {
    "all": lambda depth: range(depth),
    "first-half": lambda depth: range(depth // 2),
    "last-half": lambda depth: range(depth // 2, depth),
    "inner": lambda depth: range(min(2, depth), max(depth - 2, 0)),
}


def resolve_layers(layers: Layers, depth: int, paper: Sequence[int]) -> frozenset[int]:
    """Return zero-based layers of a model with `depth` layers.

    Args:
        layers: "paper", a name in `LAYER_SETS`, one index, or several; negative indices count from the end.
        depth: layers of the model.
        paper: what "paper" means for the method at this depth.

    Raises:
        BadOption: if the name is unknown, an index is outside the model, or nothing is left.
    """
    if isinstance(layers, str):
        chosen = _named(layers, depth, paper)
    else:
        chosen = [layers] if isinstance(layers, int) else list(layers)
    for index in chosen:
        if not -depth <= index < depth:
            raise BadOption(f"layer {index} was asked for, but the model has layers 0..{depth - 1}")
    if not chosen:
        raise BadOption(f"layers={layers!r} leaves no layer in a model with {depth} layers; give indices instead")
    return frozenset(index % depth for index in chosen)


def _named(name: str, depth: int, paper: Sequence[int]) -> list[int]:
    if name == "paper":
        return list(paper)
    if name in LAYER_SETS:
        return list(LAYER_SETS[name](depth))
    known = ["paper", *LAYER_SETS]
    raise BadOption(f"no layer set {name!r}{suggest(name, known)}; known: {', '.join(known)}, or indices as 1+18-31")
