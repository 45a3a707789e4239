"""What is true of the answers: what the picture shows, and what each answer found, missed and invented."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from vlm_evals.text.yes_no import parse_answer

from vlm_app.pictures import Box
from vlm_app.view.marks import Marker, Named

_ASKS = re.compile(r"\s*(?:is|are) there\b", re.IGNORECASE)
_AS_A_QUESTION = re.compile(r"[^.?!]*\?")


@dataclass(frozen=True)
class Judged:
    """What is true of one answer.

    Attributes:
        title: "Plain" or "Mitigated".
        found: objects of the picture that it names.
        missed: objects of the picture that it does not name.
        invented: objects that it names and that are not in the picture.
    """

    title: str
    found: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    invented: tuple[str, ...] = ()

    @property
    def lists(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What is shown of the answer: the title and the objects of each list, in order."""
        total = len(self.found) + len(self.missed)
        return (f"found {len(self.found)} of {total}", self.found), ("missed", self.missed), ("invented", self.invented)


@dataclass(frozen=True)
class Replied:
    """What is true of the answer to a question that asks for yes or no.

    Attributes:
        title: "Plain" or "Mitigated".
        said: "yes", "no", or "neither".
        right: "yes" or "no".
        asked: the objects of the question.
    """

    title: str
    said: str
    right: str
    asked: tuple[str, ...]


@dataclass(frozen=True)
class Truth:
    """What the picture shows, and what the answers made of it.

    Attributes:
        picture: upright.
        objects: what it shows, in order.
        boxes: where they lie; an object without any is known, and its place is not.
        sides: one for each answer that has ended.
    """

    picture: Image.Image
    objects: tuple[str, ...]
    boxes: Mapping[str, Sequence[Box]]
    sides: tuple[Judged | Replied, ...]


class Judge:
    """Judges the answers to one prompt about one picture.

    Args:
        prompt: what is asked.
        objects: what the picture shows, in order; None where nobody knows.
        marker: finds objects.
    """

    def __init__(self, prompt: str, objects: Sequence[str] | None, marker: Marker) -> None:
        self.objects, self._marker = objects, marker
        self._asked = asked_objects(prompt, marker.named(prompt, None))

    def named(self, text: str) -> list[Named]:
        """Return the objects that an answer names; those of a yes or no are the question's, and no claim."""
        return [] if self._asked else self._marker.named(text, self.objects)

    def true_of(self, title: str, text: str) -> Judged | Replied | None:
        """Return what is true of an answer; None where nobody knows what the picture shows."""
        if self.objects is None:
            return None
        if self._asked:
            return replied(title, text, self._asked, self.objects)
        return judged(title, self.named(text), self.objects)


def asked_objects(prompt: str, named: Sequence[Named]) -> tuple[str, ...]:
    """Return the objects whose presence a prompt asks about; empty where it asks for something else.

    Args:
        prompt: what is asked.
        named: the objects that it names.
    """
    asks = _ASKS.match(prompt)
    question = _AS_A_QUESTION.match(prompt)
    if asks is None or question is None:
        return ()
    return tuple(dict.fromkeys(one.node for one in named if one.end <= question.end()))


def judged(title: str, named: Sequence[Named], objects: Collection[str]) -> Judged:
    """Return what is true of an answer that names objects."""
    said = tuple(dict.fromkeys(one.node for one in named))
    return Judged(
        title,
        found=tuple(node for node in said if node in objects),
        missed=tuple(node for node in objects if node not in said),
        invented=tuple(node for node in said if node not in objects),
    )


def replied(title: str, text: str, asked: tuple[str, ...], objects: Collection[str]) -> Replied:
    """Return what is true of an answer to whether objects are there; all of them must be, for yes."""
    reading = parse_answer(text)
    right = "yes" if all(node in objects for node in asked) else "no"
    return Replied(title, reading if reading in ("yes", "no") else "neither", right, asked)
