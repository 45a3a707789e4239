"""Which layers an intervention acts on: a name, or zero-based indices."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlm_heads.errors import BadOption, brief, suggest
from vlm_heads.toolkit.options import LARGEST_INDEX, Kind, option, read_index

Layers = str | int | Sequence[int]

LAYER_SETS: Mapping[str, Callable[[int], range]] = {
    "all": lambda depth: range(depth),
    "first-half": lambda depth: range(depth // 2),
    "last-half": lambda depth: range(depth // 2, depth),
    "first-third": lambda depth: range(depth // 3),
    "middle-third": lambda depth: range(depth // 3, depth - depth // 3),
    "last-third": lambda depth: range(depth - depth // 3, depth),
    "inner": lambda depth: range(min(2, depth), max(depth - 2, 0)),
}
_RUN = re.compile(r"(-?\d+)(?:-(\d+))?")


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
        raise BadOption(f"layers={brief(layers)} leaves no layer in a model with {depth} layers; give indices instead")
    return frozenset(index % depth for index in chosen)


def middle_layers(depth: int) -> range:
    """Return layers 5..17 of 32, and in proportion in a model of another depth; one at least."""
    first = round(5 / 32 * depth)
    return range(first, max(first + 1, round(18 / 32 * depth)))


def layers_option(default: Layers = "paper", *, paper: str = "") -> Any:
    """Return the field of an option that names layers.

    Args:
        default: a layer set's name, or indices.
        paper: which layers "paper" means, for the help text.
    """
    meaning = f'"paper" is {paper}; ' if paper else ""
    return option(default, help=f"{meaning}a set ({', '.join(LAYER_SETS)}) or indices as 1+18-31", form=_LAYERS)


class _LayersForm:
    """Reads `1+18-31`, and keeps one index or several as a tuple. A name is looked up where a model is at hand."""

    kind: Kind = "layers"

    def read(self, text: str, name: str) -> str | tuple[int, ...]:
        if not any(character.isdigit() for character in text):
            return text
        chosen: list[int] = []
        for piece in text.split("+"):
            match = _RUN.fullmatch(piece.strip())
            if match is None:
                raise BadOption(
                    f"{name}={brief(text, str)}: a name, or indices and runs joined by +, as in 1+18-31, are needed"
                )
            first = read_index(match[1], name)
            run = range(first, read_index(match[2], name) + 1) if match[2] else [first]
            if not run:
                raise BadOption(
                    f"{name}={brief(text, str)}: {piece.strip()} is no run of layers; the lower one comes first"
                )
            chosen.extend(run)
            if len(chosen) > LARGEST_INDEX:
                raise BadOption(
                    f"{name}={brief(text, str)}: these are {len(chosen):,} layers, and no model has so many"
                )
        return tuple(chosen)

    def write(self, value: Any) -> str:
        return value if isinstance(value, str) else "+".join(map(str, value))

    def checked(self, value: Any, name: str) -> str | tuple[int, ...]:
        if isinstance(value, str):
            return value
        chosen = (value,) if isinstance(value, int) else value
        if not isinstance(chosen, Sequence | range) or any(
            isinstance(one, bool) or not isinstance(one, int) for one in chosen
        ):
            raise BadOption(f"{name}={brief(value)}: the name of a layer set, or zero-based indices, are needed")
        return tuple(chosen)


_LAYERS = _LayersForm()


def _named(name: str, depth: int, paper: Sequence[int]) -> list[int]:
    if name == "paper":
        return list(paper)
    if name in LAYER_SETS:
        return list(LAYER_SETS[name](depth))
    known = ["paper", *LAYER_SETS]
    raise BadOption(
        f"no layer set {brief(name)}{suggest(name, known)}; known: {', '.join(known)}, or indices as 1+18-31"
    )
