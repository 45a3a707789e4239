"""Retrieval heads: which heads look at the word that is copied (Wu et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.families import Anatomy
from vlm_heads.models.images import load_image
from vlm_heads.models.prompts import model_inputs, with_answer
from vlm_heads.scorers.base import Found, Scorer, empty
from vlm_heads.scorers.batch import watched_forward
from vlm_heads.scorers.example import Example, Text
from vlm_heads.toolkit.described import Paper
from vlm_heads.toolkit.options import option
from vlm_heads.toolkit.row_attention import all_weights, require_image_keys


@dataclass(frozen=True)
class CopyScore(Scorer):
    """The retrieval score: how often a head's strongest key is the word of the prompt that the model copies just then.

    High means that the head fetches what is written before. A text stands in the prompt, and the model is asked to
    repeat it beside each picture. The text is read as its own continuation, so one forward is enough. Of authors'
    programs it differs in that alone: they let the model generate, and here a token counts where the model would say
    the right one.

    Formula:
        s[l, i] = 1/|text| * number of its tokens t with key(l, i, t) in the text and token(key) = said(t) = t
        key(l, i, t) the key of the largest weight in the row that predicts t; samples in which the model would say half
        of the text or less do not count
    """

    name: ClassVar[str] = "copy"
    label: ClassVar[str] = "retrieval"
    paper: ClassVar[Paper | None] = Paper(
        "Wu et al.", "Retrieval Head Mechanistically Explains Long-Context Factuality", 2024, "", "2404.15574"
    )
    unit: ClassVar[str] = "share of the tokens copied"

    text: str = option("there is a car and a dog", help="what is to be copied; words that the model knows")
    ask: str = option("Repeat these words:", help="stands before the text")
    said: Literal["own", "given"] = option(
        "own", help="count tokens that the model would say itself, or all of them as if it did"
    )

    def check(self, anatomy: Anatomy) -> None:
        require_image_keys(anatomy)

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        for example in examples:
            inputs = model_inputs(model, processor, [load_image(example.image)], [f"{self.ask} {self.text}".strip()])
            prompt: list[int] = inputs["input_ids"][0].tolist()
            places = Text(processor.tokenizer, prompt, anatomy, 0).columns_of(self.text, last=True)
            copied = [prompt[place] for place in places]
            watcher = _TopKeys(len(prompt) - 1, len(copied))
            logits: Tensor = watched_forward(model, with_answer(inputs, copied), watcher).logits
            said = logits[0, len(prompt) - 1 : -1].argmax(dim=-1).cpu()
            ids = torch.tensor([*prompt, *copied])
            right = torch.ones(len(copied)) if self.said == "given" else (said == torch.tensor(copied)).float()
            if right.mean() <= 0.5:
                yield None
                continue
            table = empty(anatomy)
            for layer, keys in watcher.keys.items():  # [Hq, n]
                hit = torch.isin(keys, torch.tensor(places)) & (ids[keys] == torch.tensor(copied))
                table[0, layer] = (hit * right).mean(dim=-1)
            yield Found(table)

    def nothing(self, count: int) -> str:
        return (
            f"copy: in all of {count} samples the model would say half of {self.text!r} or less; give a text of words "
            'that it knows, as copy:text="a dog and a car", or count all tokens with said=given'
        )


class _TopKeys(Watcher):
    """Keeps `[Hq, n]` by layer: the key of the largest weight in n rows, from `begin` on."""

    def __init__(self, begin: int, count: int) -> None:
        self.rows = slice(begin, begin + count)
        self.keys: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        self.keys[call.layer] = all_weights(call)[0, :, self.rows].argmax(dim=-1).cpu()
