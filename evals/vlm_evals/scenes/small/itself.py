"""Whether the language model under `small` is still itself: plain prose, and a question without a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .base import Base
from .chat import BEFORE_ANSWER, BEFORE_IMAGE, END, START, encode

QUESTION = "What is the capital of France?"
ANSWERED = 48  # tokens


@dataclass(frozen=True)
class Itself:
    """A language model beside the base that it was made from.

    Attributes:
        perplexity, base_perplexity: on a neutral text that no training saw.
        question: asked without a picture.
        answer, base_answer: greedy.
    """

    perplexity: float
    base_perplexity: float
    question: str
    answer: str
    base_answer: str

    @property
    def ratio(self) -> float:
        """How many times the base's perplexity the model has."""
        return self.perplexity / self.base_perplexity


def neutral_text() -> str:
    """Return six paragraphs about rivers, bread, books, sound, letters and maps."""
    return files("vlm_evals.scenes.small").joinpath("neutral.txt").read_text(encoding="utf-8")


def is_chat_of_base(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a tokenizer has the base's marks of turns."""
    known: dict[str, int] = tokenizer.get_vocab()
    return {START, END} <= known.keys()


def beside_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, base: Base) -> Itself:
    """Return how a model reads and answers without a picture, beside its base.

    Args:
        model: a vision-language model on the base, or the base.
        tokenizer: its own.
        base: what it was made from.
    """
    text = neutral_text()
    return Itself(
        perplexity=perplexity(model, tokenizer, text),
        base_perplexity=perplexity(base.model, base.tokenizer, text),
        question=QUESTION,
        answer=answered(model, tokenizer, QUESTION),
        base_answer=answered(base.model, base.tokenizer, QUESTION),
    )


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str) -> float:
    """Return exp of the mean negative log-probability of a text's tokens, all but the first."""
    ids = torch.tensor([encode(tokenizer, text)], device=model.device)
    return math.exp(float(model(input_ids=ids, labels=ids).loss))


@torch.no_grad()
def answered(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """Return the greedy answer to a question without a picture, at most `ANSWERED` tokens."""
    ids = torch.tensor([encode(tokenizer, f"{BEFORE_IMAGE}{question}{BEFORE_ANSWER}")], device=model.device)
    end = encode(tokenizer, END)[0]
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=ANSWERED, eos_token_id=end,
        pad_token_id=end,
    )  # fmt: skip
    said: str = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    return said
