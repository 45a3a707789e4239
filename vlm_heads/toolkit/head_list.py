"""Lists of heads, and of gains by head, as options take them: "14.3+17.0" and "14.3:2+17.0:0.5"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vlm_heads.errors import BadOption, brief
from vlm_heads.families import Anatomy
from vlm_heads.toolkit.options import Kind, read_index, require_number, write_number

HeadList = str | Sequence[tuple[int, int]]
GainList = str | Sequence[tuple[int, int, float]]

_HEAD = re.compile(r"(-?\d+)\.(\d+)")
_GAIN = re.compile(r"(-?\d+)\.(\d+):(\d+(?:\.\d+)?(?:[eE]-?\d+)?)")


class HeadListForm:
    """(layer, head) pairs, or a word in their place. Negative layers count from the end.

    Args:
        word: what may stand in place of a list.
    """

    kind: Kind = "list"

    def __init__(self, word: str) -> None:
        self._word = word

    def read(self, text: str, name: str) -> Any:
        return text if text == self._word else tuple(self._pair(piece, text, name) for piece in text.split("+"))

    def write(self, value: Any) -> str:
        return value if isinstance(value, str) else "+".join(f"{layer}.{head}" for layer, head in value)

    def checked(self, value: Any, name: str) -> Any:
        if isinstance(value, str):
            return self.read(value, name)
        try:
            pairs = tuple((int(layer), int(head)) for layer, head in value)
        except (TypeError, ValueError, OverflowError):
            pairs = ()
        if not pairs:
            raise self._unreadable(value, name)
        return pairs

    def _pair(self, piece: str, text: str, name: str) -> tuple[int, int]:
        found = _HEAD.fullmatch(piece.strip())
        if found is None:
            raise self._unreadable(text, name)
        return read_index(found[1], name), read_index(found[2], name)

    def _unreadable(self, value: Any, name: str) -> BadOption:
        return BadOption(f"{name}={brief(value)}: {self._word}, or layer.head pairs as in 14.3+17.0, are needed")


class GainListForm:
    """(layer, head, gain) triples, or a word in their place. Negative layers count from the end; gains are at least 0.

    Args:
        word: what may stand in place of a list.
    """

    kind: Kind = "list"

    def __init__(self, word: str) -> None:
        self._word = word

    def read(self, text: str, name: str) -> Any:
        return text if text == self._word else tuple(self._triple(piece, text, name) for piece in text.split("+"))

    def write(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        return "+".join(f"{layer}.{head}:{write_number(gain)}" for layer, head, gain in value)

    def checked(self, value: Any, name: str) -> Any:
        if isinstance(value, str):
            return self.read(value, name)
        try:
            triples = tuple((int(layer), int(head), gain) for layer, head, gain in value)
        except (TypeError, ValueError, OverflowError):
            raise self._unreadable(value, name) from None
        for _, _, gain in triples:
            require_number(name, gain, at_least=0.0)
        if not triples:
            raise self._unreadable(value, name)
        return tuple((layer, head, float(gain)) for layer, head, gain in triples)

    def _triple(self, piece: str, text: str, name: str) -> tuple[int, int, float]:
        found = _GAIN.fullmatch(piece.strip())
        if found is None:
            raise self._unreadable(text, name)
        return read_index(found[1], name), read_index(found[2], name), float(found[3])

    def _unreadable(self, value: Any, name: str) -> BadOption:
        return BadOption(
            f"{name}={brief(value)}: {self._word}, or layer.head:gain triples as in 14.3:2+17.0:0.5, are needed"
        )


def layers_of_heads(anatomy: Anatomy, heads: Sequence[tuple[int, int]], name: str) -> dict[int, frozenset[int]]:
    """Return layer -> heads of a list, layers counted from the start.

    Raises:
        BadOption: naming the first head that is not in the model.
    """
    found: dict[int, set[int]] = {}
    for layer, head in heads:
        if not -anatomy.depth <= layer < anatomy.depth or not 0 <= head < anatomy.heads:
            raise BadOption(
                f"{name}: layer {layer}, head {head} is not in a model with {anatomy.depth} layers of "
                f"{anatomy.heads} heads"
            )
        if layer % anatomy.depth not in anatomy.attentions:
            with_heads = ", ".join(map(str, anatomy.attentions))
            raise BadOption(f"{name}: layer {layer} has no attention heads; layers that have: {with_heads}")
        found.setdefault(layer % anatomy.depth, set()).add(head)
    return {layer: frozenset(some) for layer, some in found.items()}
