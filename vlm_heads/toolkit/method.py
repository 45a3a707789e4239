"""What interventions and contrasts have in common: a name, a paper, options that are checked, and a word."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from vlm_heads.toolkit.described import Described, Paper
from vlm_heads.toolkit.options import options_of

__all__ = ["Method", "Paper"]


class _Neutral:
    """The options of a method at which it changes nothing, read from the options themselves."""

    def __get__(self, _: object, owner: type) -> Mapping[str, Any]:
        return {one.name: one.neutral for one in options_of(owner) if one.neutral is not None}


class Method(Described):
    """A method that acts on generation; `parse_method` reads its word back.

    Attributes:
        passes: streams that a generated token goes through, the plain one included. They share forwards where they can.
        neutral: options under which it changes nothing; the laws are tested with them.
    """

    passes: ClassVar[int] = 1
    neutral: ClassVar[Mapping[str, Any]] = _Neutral()  # type: ignore[assignment]  # a descriptor that gives the mapping

    @cached_property  # asked on every layer and step
    def changes_nothing(self) -> bool:
        """Whether every option that has a neutral value is at it."""
        neutral = type(self).neutral
        return bool(neutral) and all(getattr(self, name) == value for name, value in neutral.items())
