"""Which words of a text name objects: by a vocabulary of another package, by nltk's tagger, or by a function.

A finder is found by its name in the entry-point group `vlm_heads.object_finders`, which holds functions without
arguments that return one:

    [project.entry-points."vlm_heads.object_finders"]
    mine = "my_package.my_module:my_finder"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import entry_points

from vlm_heads.asking.named import Named
from vlm_heads.asking.negation import claimed
from vlm_heads.errors import BadOption, brief, suggest

FINDERS = "vlm_heads.object_finders"
NOUNS = "nouns"


Finder = Callable[[str], Iterable[Named | str]]


def known_finders() -> tuple[str, ...]:
    """Return the names of the finders that are installed."""
    return tuple(sorted({NOUNS, *(plug.name for plug in entry_points(group=FINDERS))}))


def finder_of(objects: str | Finder) -> Finder:
    """Return what finds objects in a text.

    Args:
        objects: the name of a finder, or a function that returns `Named` of a text, or the words themselves.

    Raises:
        BadOption: if there is no finder of that name, or it cannot be used on this machine.
    """
    return _installed(objects) if isinstance(objects, str) else objects


@cache
def _installed(objects: str) -> Finder:
    """Return the finder of a name, made once: it is asked for at every answer."""
    if objects == NOUNS:
        from vlm_heads.asking.nouns import Nouns

        return Nouns()
    plug = next(iter(entry_points(group=FINDERS, name=objects)), None)
    if plug is None:
        known = known_finders()
        raise BadOption(
            f"objects={brief(objects)}{suggest(objects, known)}: no finder of that name is installed; known: "
            f"{', '.join(known)}, or a function from a text to the words that name objects"
        )
    found: Finder = plug.load()()
    return found


def named_in(text: str, finder: Finder) -> list[Named]:
    """Return the objects that a text says are there, in order; of two that overlap, the one that begins first.

    All that is asked about and left out is found here. What stands under a negation is not there, so it is neither.
    """
    found: list[Named] = []
    for one in finder(text):
        found += [one] if isinstance(one, tuple) else _where(text, one)
    kept: list[Named] = []
    for start, end, name in sorted(found):
        if start < end and (not kept or start >= kept[-1].end):
            kept.append(Named(start, end, name))
    return claimed(text, kept)


def _where(text: str, word: str) -> list[Named]:
    places = re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    return [Named(place.start(), place.end(), word.lower()) for place in places]
