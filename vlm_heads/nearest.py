"""The nearest known name, for messages about a mistyped one."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(given: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"`, or nothing where no known name is close."""
    close = get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
