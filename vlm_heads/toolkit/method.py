"""What interventions and contrasts have in common: a name, a paper, options that are checked, and a word."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from vlm_heads.toolkit.options import Option, options_of, write_options


@dataclass(frozen=True)
class Paper:
    """Where a method comes from.

    Attributes:
        authors: as it is cited, "He et al.".
        title: of the paper.
        year: of publication.
        venue: conference or journal; empty for a preprint.
        arxiv: its number there; empty where it has none.
    """

    authors: str
    title: str
    year: int
    venue: str = ""
    arxiv: str = ""

    @property
    def cited(self) -> str:
        """Authors, venue and year in short: "He et al., ACL 2025"."""
        return f"{self.authors}, {self.venue} {self.year}" if self.venue else f"{self.authors} {self.year}"


class _Neutral:
    """The options of a method at which it changes nothing, read from the options themselves."""

    def __get__(self, _: object, owner: type) -> Mapping[str, Any]:
        return {one.name: one.neutral for one in options_of(owner) if one.neutral is not None}


class Method(ABC):
    """A method that acts on generation. Its subclasses are frozen dataclasses whose fields are the options.

    Attributes:
        name: the word for it on the command line.
        label: what papers and tables call it; the name where nothing is said.
        paper: where it comes from; None for our own.
        passes: streams that a generated token goes through, the plain one included. They share forwards where they can.
        neutral: options under which it changes nothing; the laws are tested with them.

    Raises:
        BadOption: where it is made, if a value is of another kind or out of its range.
    """

    name: ClassVar[str]
    label: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None
    passes: ClassVar[int] = 1
    neutral: ClassVar[Mapping[str, Any]] = _Neutral()  # type: ignore[assignment]  # a descriptor that gives the mapping

    def __post_init__(self) -> None:
        for one in options_of(type(self)):
            object.__setattr__(self, one.name, one.checked(getattr(self, one.name)))

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """Return the options, in the order of the fields."""
        return options_of(cls)

    @cached_property  # asked on every layer and step
    def changes_nothing(self) -> bool:
        """Whether every option that has a neutral value is at it."""
        neutral = type(self).neutral
        return bool(neutral) and all(getattr(self, name) == value for name, value in neutral.items())

    def stated(self) -> dict[str, Any]:
        """Return the name and every option's value."""
        return {"name": self.name, **{one.name: getattr(self, one.name) for one in options_of(type(self))}}

    def word(self) -> str:
        """Return the method in one word, `name:option=value,…`; what is as by default is left out.

        `parse_method` reads it back: the two are inverse to each other.
        """
        options = write_options(self)
        return f"{self.name}:{options}" if options else self.name
