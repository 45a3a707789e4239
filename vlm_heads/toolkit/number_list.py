"""Lists of channels or positions, as options take them: "1415+2533", or a word in their place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vlm_heads.errors import BadOption, brief
from vlm_heads.toolkit.options import Kind, read_index


class NumberListForm:
    """Numbers from 0 on, kept as a tuple in ascending order, each once; or a word in their place.

    Args:
        word: what may stand in place of a list.
        what: the numbers, in the plural, for messages.
        example: of a list.
    """

    kind: Kind = "list"

    def __init__(self, word: str, what: str, example: str) -> None:
        self._word = word
        self._needed = f"{word}, or {what} as in {example}, are needed"

    def read(self, text: str, name: str) -> str | tuple[int, ...]:
        return self.checked(text, name)

    def write(self, value: Any) -> str:
        return value if isinstance(value, str) else "+".join(map(str, value))

    def checked(self, value: Any, name: str) -> str | tuple[int, ...]:
        return value if isinstance(value, str) and value == self._word else self.numbers(value, name)

    def numbers(self, value: Any, name: str) -> tuple[int, ...]:
        """Return numbers written as "1415+2533", or given as such: one or several.

        Raises:
            BadOption: if there is none, or one of them is no number.
        """
        if isinstance(value, str):
            pieces: list[Any] = value.split("+")
        else:
            pieces = list(value) if isinstance(value, Iterable) else [value]
        if not pieces or not all(str(piece).strip().isdecimal() for piece in pieces):
            raise BadOption(f"{name}={brief(value)}: {self._needed}")
        return tuple(sorted({read_index(str(piece).strip(), name) for piece in pieces}))
