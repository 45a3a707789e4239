"""Which heads push invented words by reading the text written so far: the list that AD-HH needs, from one gradient.

The scorer `adhh` of `vlm_heads.scorers` does the same on examples.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vlm_heads.errors import BadOption
from vlm_heads.families import examine
from vlm_heads.scorers.text_bound import MarkedAnswer, attribution

__all__ = ["MarkedAnswer", "attribute_heads", "worst_heads"]


def attribute_heads(model: nn.Module, answers: Iterable[MarkedAnswer]) -> Tensor:
    """Return float32 `[L, Hq]`: how much each head's generated-text route favours invented over grounded words.

    It is a derivative by the gain on that route, at gain 1, and a mean over answers. What is derived is the mean
    log-probability of invented tokens minus that of grounded ones. Positive heads are candidates for AD-HH: damping
    their route makes invented words less likely. Layers without self-attention are 0.

    Args:
        model: a vision-language model of transformers.
        answers: judged ones; an answer without invented or without grounded words counts with what it has.

    Raises:
        BadOption: if no answer has a judged word, or a place is outside its answer.
    """
    anatomy = examine(model)
    total = torch.zeros(anatomy.depth, anatomy.heads)
    count = 0
    for answer in answers:
        if answer.invented or answer.grounded:
            total += attribution(model, anatomy, answer)
            count += 1
    if count == 0:
        raise BadOption(
            "no answer has a judged word; heads are attributed by invented and grounded words, so give some"
        )
    return total / count


def worst_heads(scores: Tensor, count: int = 20) -> tuple[tuple[int, int], ...]:
    """Return up to `count` (layer, head) pairs with the highest positive scores, as `TextBoundHeads` takes them."""
    best = scores.flatten().topk(min(count, scores.numel()))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return tuple(divmod(index, scores.shape[1]) for value, index in pairs if value > 0)
