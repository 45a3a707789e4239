"""What is read from, and added to, token logits for controls: the margin of two words, and a bias on a first word."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

PLAUSIBLE = 0.1  # a word is plausible at this share of the most probable token's probability


class Margins(LogitsProcessor):  # type: ignore[misc]
    """Records how much rather a model begins its answer with one word than with another; it changes nothing.

    It reads the first step of one generation.

    Args:
        first, second: the tokens that either word may begin with.
    """

    def __init__(self, first: Sequence[int], second: Sequence[int]) -> None:
        self._words = torch.tensor(list(first)), torch.tensor(list(second))
        self._margins: list[float] | None = None
        self._either: list[float] = []

    @classmethod
    def of_words(cls, tokenizer: Any, words: tuple[str, str]) -> Margins | None:
        """Return what records the margin of two words; None where a tokenizer cannot tell their beginnings apart."""
        first, second = (_beginnings(tokenizer, word) for word in words)
        own, other = sorted(first - second), sorted(second - first)
        return cls(own, other) if own and other else None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits `[R, V]` as they are."""
        if self._margins is None:
            first, second = (scores[:, ids.to(scores.device)].double().logsumexp(dim=-1) for ids in self._words)
            self._margins = (first - second).tolist()
            either = torch.stack([first, second]).logsumexp(dim=0) - scores.double().logsumexp(dim=-1)
            self._either = either.exp().tolist()
        return scores

    def of(self, rows: int) -> list[float | None]:
        """Return the margin of every row, of which each may have had several beams; None where it is not finite."""
        return _of_rows(self._margins or [], rows)

    def either(self, rows: int) -> list[float | None]:
        """Return for every row how probable it is that the answer begins with one of the two words."""
        return _of_rows(self._either, rows)


def _of_rows(found: Sequence[float], rows: int) -> list[float | None]:
    each = len(found) // rows if rows else 0
    values = found[::each] if each else [math.nan] * rows
    return [round(one, 6) if math.isfinite(one) else None for one in values]


def _beginnings(tokenizer: Any, word: str) -> set[int]:
    """Return the first tokens of a word as an answer may begin with it: in any case, with and without a space."""
    spelled = {one for case in (word, word.title(), word.upper()) for one in (case, f" {case}")}
    firsts = (tokenizer.encode(one, add_special_tokens=False)[:1] for one in sorted(spelled))
    return {first[0] for first in firsts if first} - {tokenizer.unk_token_id}


class FirstWord(LogitsProcessor):  # type: ignore[misc]
    """Adds a bias to one token wherever it is plausible: the control of methods that raise the first step's logits.

    Args:
        token: of the word.
        bias: added to its logits.
    """

    def __init__(self, token: int, bias: float) -> None:
        self._token, self._bias = token, bias

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits `[R, V]`, changed for the token alone."""
        own = scores[:, self._token]
        plausible = own >= scores.amax(dim=-1) + math.log(PLAUSIBLE)
        changed = scores.clone()
        changed[:, self._token] = torch.where(plausible, own + self._bias, own)
        return changed


def most_frequent(tokens: Iterable[int]) -> int | None:
    """Return the token that stands most often, of several the smallest; None where there is none."""
    counts: dict[int, int] = {}
    for token in tokens:
        counts[token] = counts.get(token, 0) + 1
    return min(counts, key=lambda token: (-counts[token], token)) if counts else None
