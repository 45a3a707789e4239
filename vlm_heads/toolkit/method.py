"""What interventions and contrasts have in common: a name, a paper, options that are checked, and a word."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from vlm_heads.toolkit.described import Described, Paper
from vlm_heads.toolkit.options import options_of

__all__ = ["Method", "Paper"]


# what a method changes -> what that means, in the order in which methods are listed
LEVERS: Mapping[str, str] = {
    "head gain": "multiplies the outputs of heads",
    "class gain": "multiplies what one kind of keys, as those of the image, contributes to a head",
    "logits": "changes attention logits before softmax",
    "key weight": "multiplies the weights of keys, and each row still sums to 1",
    "redistribution": "hands weight from some keys to others after softmax",
    "value gain": "multiplies the values of keys, and leaves their weights",
    "attention pattern": "replaces or dilutes where a head attends",
    "residual": "changes what runs between the layers",
    "feed-forward": "changes what a feed-forward layer gives",
    "lens": "reads token logits of middle layers, and mixes them in",
    "token logits": "changes the next token's logits, and reads nothing else of the model",
    "second stream": "weighs the token logits of a second stream against the first's",
    "check": "reads the words before they are said",
    "search": "keeps several answers as they grow, and goes back on words that were said",
    "asked otherwise": "lets the model answer first, and then asks it something else",
}


class _Neutral:
    """The options of a method at which it changes nothing, read from the options themselves."""

    def __get__(self, _: object, owner: type) -> Mapping[str, Any]:
        return {one.name: one.neutral for one in options_of(owner) if one.neutral is not None}


class Method(Described):
    """A method that acts on generation; `parse_method` reads its word back.

    Attributes:
        lever: what it changes, a key of `LEVERS`.
        needs: what must be given or run beside the model and its inputs, in words.
        passes: streams that a generated token goes through, the plain one included. They share forwards where they can.
        neutral: options under which it changes nothing; the laws are tested with them.
    """

    lever: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    passes: ClassVar[int] = 1
    neutral: ClassVar[Mapping[str, Any]] = _Neutral()  # type: ignore[assignment]  # a descriptor that gives the mapping

    @cached_property  # asked on every layer and step
    def changes_nothing(self) -> bool:
        """Whether every option that has a neutral value is at it."""
        neutral = type(self).neutral
        return bool(neutral) and all(getattr(self, name) == value for name, value in neutral.items())
