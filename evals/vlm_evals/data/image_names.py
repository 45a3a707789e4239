"""Names of images: one key for each image, and no key for two, as `a/1.jpg` and `b/1.jpg` would have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from vlm_evals.records import image_key

Name = TypeVar("Name", int, str, int | str)


def told_apart(names: Iterable[Name]) -> dict[Name, str]:
    """Return name -> key: `image_key`'s, and the whole path where images of different folders would share it.

    Raises:
        EvaluationError: for what is no image id.
    """
    keys = {name: image_key(name) for name in names}
    within: dict[str, set[tuple[str, ...]]] = {}
    for name, key in keys.items():
        if folders := folders_of(name):
            within.setdefault(key, set()).add(folders)
    shared = {key for key, found in within.items() if len(found) > 1 and _differ(list(found))}
    return {name: whole_name(name) if key in shared else key for name, key in keys.items()} if shared else keys


def whole_name(name: int | str) -> str:
    """Return a name with its folders, as it is compared."""
    return "/".join(_parts(name))


def folders_of(name: int | str) -> tuple[str, ...]:
    """Return the folders that a name states."""
    return _parts(name)[:-1] if isinstance(name, str) and ("/" in name or "\\" in name) else ()


def same_place(one: str, other: str) -> bool:
    """Whether two whole names may mean one file: the shorter ends the longer, folder by folder."""
    return _ends(tuple(one.split("/")), tuple(other.split("/")))


def _parts(name: int | str) -> tuple[str, ...]:
    return tuple(part for part in str(name).strip().replace("\\", "/").split("/") if part not in ("", "."))


def _differ(found: Sequence[tuple[str, ...]]) -> bool:
    longest = max(found, key=len)
    return not all(_ends(one, longest) for one in found)


def _ends(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return longer[len(longer) - len(shorter) :] == shorter
