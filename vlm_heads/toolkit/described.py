"""What is found by name and has options: a word, a paper, and values that are checked where they are given."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar

from vlm_heads.toolkit.options import Option, options_of, write_options


@dataclass(frozen=True)
class Paper:
    """Where something comes from.

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


class Described(ABC):
    """A subclass is a frozen dataclass whose fields are its options.

    Attributes:
        name: the word for it on the command line.
        label: what papers and tables call it; the name where nothing is said.
        paper: where it comes from; None for our own.

    Raises:
        BadOption: where it is made, if a value is of another kind or out of its range.
    """

    name: ClassVar[str]
    label: ClassVar[str] = ""
    paper: ClassVar[Paper | None] = None

    def __post_init__(self) -> None:
        for one in options_of(type(self)):
            object.__setattr__(self, one.name, one.checked(getattr(self, one.name)))

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """Return the options, in the order of the fields."""
        return options_of(cls)

    def stated(self) -> dict[str, Any]:
        """Return the name and every option's value."""
        return {"name": self.name, **{one.name: getattr(self, one.name) for one in options_of(type(self))}}

    def word(self) -> str:
        """Return it in one word, `name:option=value,…`; what is as by default is left out.

        The parser of its kind reads it back: the two are inverse to each other.
        """
        options = write_options(self)
        return f"{self.name}:{options}" if options else self.name
