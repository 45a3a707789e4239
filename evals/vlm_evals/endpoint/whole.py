"""Whether a server's answer is whole: one that was broken off is no answer to what was asked."""

from __future__ import annotations

from typing import Any

from vlm_evals.endpoint.client import Refused

_BROKEN = frozenset({"abort", "content_filter", "error"})  # vLLM and SGLang; OpenAI; vLLM


def require_whole(reason: Any, tokens: int | None, most: int) -> None:
    """Raise `Refused` where an answer ends before its model or the request ends it.

    Args:
        reason: the reply's `finish_reason`.
        tokens: that the answer has, where the server counts them.
        most: that it may have.
    """
    if isinstance(reason, str) and reason in _BROKEN:
        raise Refused(f"the server broke its answer off: finish_reason {reason!r}")
    if reason == "length" and tokens is not None and tokens < most:
        raise Refused(
            f"the server cut its answer after {tokens} tokens, where it may have {most}: its context is too short for "
            "prompt and answer; serve with a longer one, or ask with a smaller --max-tokens"
        )
