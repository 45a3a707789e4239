"""What a tensor of the model is called in a checkpoint: older files have other prefixes than the model in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vlm_heads.errors import UnsupportedModel


def names_in_checkpoint(wanted: Iterable[str], in_memory: Sequence[str], stored: Sequence[str]) -> dict[str, str]:
    """Return wanted name -> stored name.

    A tensor that is stored under its own name is taken. Otherwise the stored name that shares the longest end with the
    wanted one is taken. The end must reach the number of the layer, and no other tensor of the model may fit better: so
    the decoder's layers are not mixed up with those of a vision tower.

    Args:
        wanted: names in memory, each with the number of a layer in it.
        in_memory: every name in memory.
        stored: every name in the checkpoint.

    Raises:
        UnsupportedModel: if a tensor is not found, or could be several.
    """
    rivals = _by_tail(in_memory)
    found = {name: name if name in set(stored) else _found(name, stored, rivals) for name in wanted}
    if len(set(found.values())) < len(found):
        raise UnsupportedModel(
            "two tensors of the model would get the same name in the checkpoint; its names are not understood"
        )
    return found


def _found(name: str, stored: Sequence[str], rivals: Mapping[str, Sequence[str]]) -> str:
    parts = name.split(".")
    least = len(parts) - next(index for index, part in enumerate(parts) if part.isdigit())
    lengths = {other: _common(name, other) for other in stored if other.split(".")[-least:] == parts[-least:]}
    own = {
        other: length
        for other, length in lengths.items()
        if length == max(_common(rival, other) for rival in rivals[_tail(other)])
    }
    best = [other for other, length in own.items() if length == max(own.values())]
    if len(best) != 1:
        several = f"could be {' or '.join(best)}" if best else "is not there"
        raise UnsupportedModel(f"{name} {several} in the checkpoint; its names are not understood")
    return best[0]


def _common(left: str, right: str) -> int:
    """Return how many dotted parts two names have in common at their ends."""
    count = 0
    for one, other in zip(reversed(left.split(".")), reversed(right.split(".")), strict=False):
        if one != other:
            break
        count += 1
    return count


def _by_tail(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names by their last two parts, so that not every name is compared with every other."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_tail(name), []).append(name)
    return found


def _tail(name: str) -> str:
    return ".".join(name.split(".")[-2:])
