"""What a server says of log-probabilities: whether it begins its answer with one word or another, or with either."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

WANTED: Mapping[str, Any] = {"logprobs": True, "top_logprobs": 20}  # as many as OpenAI and vLLM give


def given(body: Mapping[str, Any]) -> bool:
    """Whether a reply tells which tokens might have come first."""
    return bool(_alternatives(body))


def margin(body: Mapping[str, Any], words: tuple[str, str], *, bounded: bool = False) -> float | None:
    """Return the log-probability of one word minus that of another as the first token of a reply.

    All spellings of a word among the alternatives are summed up: in any case, with and without a space.

    Args:
        body: of a reply, asked for with `WANTED`.
        words: the two.
        bounded: take a word that is not among the alternatives for as probable as the least of them: the margin is then
            at least as far from 0.

    Returns:
        None where neither is among the alternatives, or one is not and that is not allowed.
    """
    shares = _shares(body, words)
    if bounded and any(shares):
        least = min(math.exp(chance) for _, chance in _alternatives(body))
        shares = [share or least for share in shares]
    first, second = shares
    return round(math.log(first) - math.log(second), 6) if first > 0.0 and second > 0.0 else None


def either(body: Mapping[str, Any], words: tuple[str, str]) -> float | None:
    """Return the probability that a reply begins with one of two words; None where their margin is not known."""
    first, second = _shares(body, words)
    return round(first + second, 6) if first > 0.0 and second > 0.0 else None


def _shares(body: Mapping[str, Any], words: tuple[str, str]) -> list[float]:
    """Return the probability of each word as the first token, all its spellings together."""
    alternatives = _alternatives(body)
    return [
        math.fsum(math.exp(chance) for token, chance in alternatives if token.strip().lower() == word.lower())
        for word in words
    ]


def _alternatives(body: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return tokens that might have come first, with their log-probabilities; none where the reply tells of none."""
    try:
        listed = body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = [(one["token"], float(one["logprob"])) for one in listed]
    except (KeyError, IndexError, TypeError, ValueError):
        return []
    return [(token, chance) for token, chance in found if isinstance(token, str) and chance <= 0.0]
