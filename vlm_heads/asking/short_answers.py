"""Answers that begin with yes or no: they answer a question, and are never checked."""

import re

_BEGINNING = re.compile(r"\W*(?:yes|no)\b", re.IGNORECASE)


def answers_yes_or_no(text: str) -> bool:
    """Whether a text begins with yes or no."""
    return _BEGINNING.match(text) is not None
