"""Damaged files: what a reader must refuse by name, whatever stands in them."""

import json
from typing import Any

from hypothesis import strategies as st

WORDS = st.sampled_from(["", "a.jpg", "yes", "no", "dog", "mean", "\ud800", "{question}", "1", "42"]) | st.text(
    max_size=6
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 42, -1, 10**30, 1.5, float("nan"), float("inf"), -float("inf")])
    | WORDS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)
DEEP = ("[" * 100_000).encode()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of every value within a JSON value, its own first."""
    found = [path]
    if isinstance(value, dict):
        found += [one for key, inner in value.items() for one in places(inner, (*path, key))]
    elif isinstance(value, list):
        found += [one for index, inner in enumerate(value) for one in places(inner, (*path, index))]
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any, *, drop: bool = False) -> Any:
    """Return a JSON value with the value at a path replaced, or left out."""
    if not path:
        return new
    head, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if drop and not rest:
        del copy[head]
    else:
        copy[head] = replaced(copy[head], tuple(rest), new, drop=drop)
    return copy


@st.composite
def damaged(draw: st.DrawFn, good: Any, *, lines: bool = False) -> bytes:
    """Draw a file that was good and is no longer: one value replaced or left out, bytes changed, or cut off.

    Args:
        draw: of Hypothesis.
        good: the JSON value of the file, or the list of its lines' values.
        lines: whether the file holds JSON lines.
    """
    value = good
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from(places(value)))
        value = replaced(value, path, draw(VALUES), drop=draw(st.booleans()) and bool(path))
    rows = value if lines and isinstance(value, list) else [value]
    content = "\n".join(map(json.dumps, rows)).encode() + b"\n"
    how = draw(st.sampled_from(["as it is", "as it is", "as it is", "cut", "changed", "deep", "other"]))
    at = draw(st.integers(0, len(content)))
    if how == "cut":
        return content[:at]
    if how == "changed":
        return content[:at] + draw(st.binary(max_size=4)) + content[at + 1 :]
    if how == "deep":
        return content[:at] + DEEP
    return draw(st.binary(max_size=30)) if how == "other" else content
