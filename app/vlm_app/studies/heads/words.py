"""Tokens that decide: where a caption turns to an object, which tokens begin objects' words, and yes and no."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_evals.scenes.catalog import CATEGORIES
from vlm_evals.text.places import Placed


def deciding_piece(pieces: Sequence[str], placed: Placed) -> int:
    """Return the piece that begins the first word of a mention; where words are several pieces, they end later."""
    begins = [place for place in range(placed.last + 1) if place == 0 or pieces[place][:1].isspace()]
    words = placed.last - placed.first + 1
    return begins[-min(words, len(begins))]


def object_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that begin a word of the world's objects inside a sentence, in ascending order."""
    return sorted(first_tokens(tokenizer))


def first_tokens(tokenizer: Any) -> dict[int, set[str]]:
    """Return the tokens that begin a word of the world's objects inside a sentence: token -> the objects' names."""
    before = len(_ids(tokenizer, "a"))
    found: dict[int, set[str]] = {}
    for category in CATEGORIES:
        for word in (word for both in category.words for word in both):
            found.setdefault(_ids(tokenizer, f"a {word}")[before], set()).add(category.name)
    found.pop(tokenizer.unk_token_id, None)
    return found


def yes_and_no(tokenizer: Any) -> tuple[int, int] | None:
    """Return the tokens that begin the answers yes and no; None where the vocabulary cannot tell them apart."""
    yes, no = (_ids(tokenizer, word)[0] for word in ("Yes", "No"))
    return None if yes == no else (yes, no)


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
