"""The option `objects`: a finder's name, or in Python a function."""

from __future__ import annotations

from typing import Any

from vlm_heads.errors import BadOption, brief
from vlm_heads.toolkit.options import Kind


class ObjectsForm:
    """Reads and writes which words are asked about; whether a finder is installed is found where it is used."""

    kind: Kind = "word"

    def read(self, text: str, name: str) -> Any:
        """Return the finder's name."""
        return text

    def write(self, value: Any) -> str:
        """Return the finder's name.

        Raises:
            BadOption: for a function, which has none.
        """
        if not isinstance(value, str):
            raise BadOption(
                f"objects={brief(value)} is a function, which cannot be written in words: bring it by the entry-point "
                "group vlm_heads.object_finders"
            )
        return value

    def checked(self, value: Any, name: str) -> Any:
        """Return the name or function as it is."""
        if not isinstance(value, str) and not callable(value):
            raise BadOption(
                f"{name}={brief(value)}: the name of a finder, or a function from a text to words, is needed"
            )
        return value
