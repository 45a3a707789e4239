"""Words of a text that name an object."""

from __future__ import annotations

from typing import NamedTuple


class Named(NamedTuple):
    """Words of a text that name an object.

    Attributes:
        start, end: where they stand in the text.
        name: the object, as a question asks for it; words that mean the same have one name.
    """

    start: int
    end: int
    name: str
