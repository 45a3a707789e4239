"""Where sentences end, and which characters each token stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_END = re.compile(r"""(?:[.!?…]["'”’)\]]*|\n)\s*\Z""")
_BREAK = re.compile(r"""[.!?…]["'”’)\]]*(?:\s+|\Z)|\n\s*""")
# a full stop after these ends no sentence, nor does the number of a list's entry
_SHORT = re.compile(r"(?:(?:^|[\s(.])(?:[A-Za-z]|e\.g|i\.e|Mr|Mrs|Ms|Dr|St|vs)|^\s*\d+)\.\s*\Z")


def ends_sentence(text: str) -> bool:
    """Whether a text that grows has come to the end of a sentence, or of a line that says something."""
    return bool(text.strip()) and _END.search(text) is not None and _SHORT.search(text) is None


def sentences_of(text: str) -> list[str]:
    """Return a text cut after its sentences, each with the space behind it; together they are the text."""
    found, start = [], 0
    for end in (match.end() for match in _BREAK.finditer(text)):
        if ends_sentence(text[start:end]):
            found.append(text[start:end])
            start = end
    return [*found, text[start:]] if text[start:] else found


def sentence_length(tokenizer: Any, ids: Sequence[int], start: int = 0) -> int:
    """Return how many of these token ids make the first sentence; all of them where none ends.

    Args:
        tokenizer: the model's own.
        ids: from a sentence's beginning on.
        start: ids of which it is known that no sentence ends in them.
    """
    for count in range(start + 1, len(ids) + 1):
        if ends_sentence(tokenizer.decode(ids[:count], skip_special_tokens=True)):
            return count
    return len(ids)


def token_at(tokenizer: Any, ids: Sequence[int], place: int) -> int:
    """Return the index of the token that brings the character at a place of the decoded text."""
    for count in range(1, len(ids)):
        text = tokenizer.decode(ids[:count], skip_special_tokens=True)
        if len(text) > place and "\ufffd" not in text[place : place + 1]:
            return count - 1
    return len(ids) - 1


def tokens_of(tokenizer: Any, ids: Sequence[int], start: int, end: int) -> range:
    """Return the indices of the tokens that bring the characters from `start` to `end` of the decoded text."""
    return range(token_at(tokenizer, ids, start), token_at(tokenizer, ids, end - 1) + 1)
