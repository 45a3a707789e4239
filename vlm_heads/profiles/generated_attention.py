"""How much heads attend to the text written so far, for true words and for invented ones: the table of AdaIAT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from vlm_heads.attach import attach
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import examine
from vlm_heads.models.prompts import with_answer
from vlm_heads.scorers.text_bound import MarkedAnswer
from vlm_heads.toolkit.generated_attention import GeneratedAttention
from vlm_heads.toolkit.row_attention import all_weights

__all__ = ["GeneratedAttention", "generated_attention"]


def generated_attention(model: nn.Module, answers: Iterable[MarkedAnswer]) -> GeneratedAttention:
    """Return each head's mean weight on a key of generated text, where true words are said and where invented ones are.

    A word is read in the row that predicts its first token; a word that begins the answer has no text before it and is
    left out. Both tables are means over words. Layers without self-attention are 0.

    Args:
        model: a vision-language model of transformers.
        answers: judged ones.

    Raises:
        BadOption: if no true word or no invented word has text before it.
    """
    anatomy = examine(model)
    sums = torch.zeros(2, anatomy.depth, anatomy.heads)
    counts = [0, 0]
    for answer in answers:
        for kind, places in enumerate((answer.grounded, answer.invented)):
            later = [place for place in places if place > 0]
            counts[kind] += len(later)
            if later:
                sums[kind] += _attention(model, sums[kind], answer, later)
    if not all(counts):
        raise BadOption(
            f"{counts[0]} true and {counts[1]} invented words have text before them; both kinds are compared, so give "
            "answers with both"
        )
    return GeneratedAttention(sums[0] / counts[0], sums[1] / counts[1])


def _attention(model: nn.Module, like: Tensor, answer: MarkedAnswer, places: Sequence[int]) -> Tensor:
    """Return `[L, Hq]`: the mean weight on a generated key, added up over words."""
    watcher = _GeneratedWeights(begin=answer.inputs["input_ids"].shape[1], places=places)
    with torch.no_grad(), attach(model, watch=[watcher]):
        model(**with_answer(answer.inputs, answer.token_ids.tolist()), use_cache=False)
    found = torch.zeros_like(like)
    for layer, weights in watcher.found.items():
        found[layer] = weights
    return found


class _GeneratedWeights(Watcher):
    """Adds up over words `[Hq]` by layer, the mean weight on the answer's keys that stand before a word.

    Args:
        begin: the answer's first column.
        places: of the words in the answer.
    """

    def __init__(self, begin: int, places: Sequence[int]) -> None:
        self.begin = begin
        self.places = places
        self.found: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        weights, begin = all_weights(call)[0], self.begin  # [Hq, T, T]
        means = [weights[:, begin + place - 1, begin : begin + place].mean(dim=-1) for place in self.places]
        self.found[call.layer] = torch.stack(means).sum(dim=0).cpu()
