"""Where a text mentions objects: by its words, or by other pieces such as tokens."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

from vlm_evals.text.objects import Mention, ObjectFinder

WORD = re.compile(r"\w[\w'’-]*")


class Placed(NamedTuple):
    """Where a text that grows piece by piece mentions an object.

    Attributes:
        first: the piece that decides for the object; in `hot dog` that is `hot`.
        last: the piece that completes the mention.
        node: the object.
    """

    first: int
    last: int
    node: str


def place_mentions(beginnings: Sequence[Sequence[Mention]]) -> list[Placed]:
    """Return where a text mentions objects, in order.

    Args:
        beginnings: the mentions in the text up to and with each of its pieces; the last are those of the whole text.
    """
    mentions = beginnings[-1] if beginnings else ()
    placed = []
    for count, mention in enumerate(mentions, start=1):
        # from the piece that completes it on, the text begins with these mentions
        last = next(place for place, some in enumerate(beginnings) if some[:count] == mentions[:count])
        placed.append(Placed(max(0, last - mention.word.count(" ")), last, mention.node))
    return placed


def pieces_that_mention(finder: ObjectFinder, pieces: Sequence[str]) -> list[Placed]:
    """Return which pieces of a text, such as its tokens, mention objects."""
    return place_mentions([finder.find(beginning).mentions for beginning in accumulate(pieces)])


def object_spans(finder: ObjectFinder, text: str) -> list[tuple[int, int, str]]:
    """Return the objects that a text mentions, in order: where each begins and ends, and its name."""
    words = list(WORD.finditer(text))
    placed = place_mentions([finder.find(text[: word.end()]).mentions for word in words])
    return [(words[first].start(), words[last].end(), node) for first, last, node in placed]


def coco_objects() -> Callable[[str], list[tuple[int, int, str]]]:
    """Return what finds the objects of CHAIR's vocabulary in a text: where each stands, and its name.

    It is the finder `coco` of the entry-point group `vlm_heads.object_finders`.
    """
    return partial(object_spans, ObjectFinder())


def coco_corrected() -> Callable[[str], list[tuple[int, int, str]]]:
    """Return the same by the corrected vocabulary, which finds what a reader finds: see `corrected`.

    It is the finder `coco-corrected`. `coco` misses a bus and takes an orange cup for fruit, as CHAIR does.
    """
    return partial(object_spans, ObjectFinder(vocabulary_name="corrected"))
