"""A fixed budget: answers cut after so many tokens of the model, or after so many words.

One set of long answers gives those of every smaller budget. What greedy decoding says with `max_new_tokens=64` is the
first 64 tokens of what it says with 512; a run remembers where in its text those end. Saved answers carry no tokens:
they are cut after words, which are runs of characters without white space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vlm_evals.errors import EvaluationError
from vlm_evals.records import Answer
from vlm_evals.text.spoken import spoken

Unit = Literal["tokens", "words"]
BUDGETS = (16, 32, 64, 128, 256, 512)  # tokens after which a run remembers where its text ends
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Budget:
    """How much of an answer counts.

    Attributes:
        count: tokens or words.
        unit: which.
    """

    count: int
    unit: Unit = "words"

    def __post_init__(self) -> None:
        """Refuse a budget of nothing.

        Raises:
            EvaluationError: saying what is needed.
        """
        if self.count < 1:
            raise EvaluationError(f"a budget is 1 or more {self.unit}, and {self.count} was given")

    def __str__(self) -> str:
        return f"{self.count} {self.unit}"

    def text(self, text: str) -> str:
        """Return the beginning of what a text says outside its thinking.

        Raises:
            EvaluationError: if the budget is one of tokens, which a text does not carry.
        """
        if self.unit != "words":
            raise EvaluationError("a saved text carries no tokens: give a budget of words")
        return first_words(spoken(text).text, self.count)

    def answer(self, answer: Answer) -> Answer:
        """Return an answer with the beginning of its text.

        Raises:
            EvaluationError: if the budget is one of tokens, and the answer does not tell where these end.
        """
        if self.unit == "words":
            return replace(answer, text=self.text(answer.text))
        if len(answer.token_ids) <= self.count:
            return answer
        if self.count not in answer.ends:
            raise EvaluationError(f"the answer to {answer.sample_id} does not tell where {self.count} tokens end")
        return replace(answer, text=answer.text[: answer.ends[self.count]])


def first_words(text: str, count: int) -> str:
    """Return a text up to the end of so many words; all of it where it has no more."""
    ends = [match.end() for _, match in zip(range(count), _WORD.finditer(text), strict=False)]
    return text[: ends[-1]] if ends else ""


def text_ends(token_ids: Sequence[int], text: str, decode: Callable[[Sequence[int]], str]) -> dict[int, int]:
    """Return budget -> where in the text it ends, for the budgets that an answer exceeds.

    Args:
        token_ids: of the answer.
        text: what they say.
        decode: the text of tokens, as `text` was made.

    Returns:
        Nothing where the text is not what the tokens say, as where a check rewrote it.
    """
    budgets = [count for count in BUDGETS if count < len(token_ids)]
    if not budgets or decode(token_ids) != text:
        return {}
    return {count: _common(decode(token_ids[:count]), text) for count in budgets}


def _common(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike: half a character of several bytes is none."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
