"""Ablation: what is lost where a head is switched off."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlm_heads.families import Anatomy
from vlm_heads.scorers.base import Found, Scorer, empty, sorted_out
from vlm_heads.scorers.example import Case, Example, case_of, repeated
from vlm_heads.scorers.reading import gained
from vlm_heads.toolkit.options import option
from vlm_heads.wrappers import unwrapped


@dataclass(frozen=True)
class Ablation(Scorer):
    """How much less likely the token that the model decides for becomes, where a head is switched off in all rows.

    High means that the head matters for the token. On pictures alone it is the token that the model says next. On
    judged samples, what is lost of invented words is taken off: high means that the head is needed for what is there.
    It measures the whole effect, through later layers too, and one head at a time: what heads do for one another
    counts in none of them.

    Formula:
        s[l, i] = log p(token) - log p(token | A[l, i] <- gain * A[l, i])
    """

    name: ClassVar[str] = "ablation"
    label: ClassVar[str] = "ablation"
    cost: ClassVar[str] = "1 forward, and 1 for each head"
    unit: ClassVar[str] = "nat of log-probability"

    gain: float = option(0.0, at_least=0.0, help="factor on the head's output; 0 switches it off")
    at_once: int = option(8, at_least=1, help="heads in one forward, each in a row of its own")

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        for case in (case_of(model, processor, anatomy, example) for example in examples):
            yield self._found(model, anatomy, case) if case.decisions else None

    def _found(self, model: nn.Module, anatomy: Anatomy, case: Case) -> Found:
        columns = [one.column for one in case.decisions]
        plain = token_chances(model, case.inputs, columns)[0]  # [n, V]
        own = plain.argmax(dim=-1).tolist()
        tokens = [said if one.token is None else one.token for said, one in zip(own, case.decisions, strict=True)]
        places = torch.arange(len(columns))
        lost = empty(anatomy, len(columns))
        for layer in anatomy.attentions:
            for first in range(0, anatomy.heads, self.at_once):
                some = range(first, min(first + self.at_once, anatomy.heads))
                gain = torch.ones(len(some), anatomy.heads)
                gain[range(len(some)), some] = self.gain
                with gained(anatomy.projections[layer], gain):
                    said = token_chances(model, repeated(case.inputs, len(some)), columns)
                lost[:, layer, some.start : some.stop] = (plain[places, tokens] - said[:, places, tokens]).T
        return sorted_out(lost, [one.right for one in case.decisions])


def token_chances(model: nn.Module, inputs: Mapping[str, Any], columns: Sequence[int]) -> Tensor:
    """Return float32 `[B, n, V]` on the CPU: log-probabilities of the next token at columns of every row."""
    model = unwrapped(model)
    length = inputs["input_ids"].shape[1]
    kept = length - min(columns)
    known = "logits_to_keep" in inspect.signature(model.forward).parameters
    with torch.inference_mode():
        logits: Tensor = model(**{**inputs, "use_cache": False}, **({"logits_to_keep": kept} if known else {})).logits
    places = [column - length for column in columns]  # from the end, however many are kept
    return logits[:, places].float().log_softmax(dim=-1).cpu()
