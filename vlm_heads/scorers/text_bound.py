"""AD-HH's heads: which push invented words by reading the text written so far, from one gradient (Yang et al. 2025).

The authors switch heads off one by one, with as many forwards as there are heads. Here one gradient gives the effect of
damping each head's generated-text route, to first order, for all heads at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass, attend

from vlm_heads.attach import attach
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.models.images import load_image
from vlm_heads.models.prompts import model_inputs, with_answer
from vlm_heads.scorers.base import Found, Needs, Scorer
from vlm_heads.scorers.example import Example, case_of
from vlm_heads.toolkit.described import Paper


@dataclass(frozen=True)
class MarkedAnswer:
    """An answer whose object words have been judged, as CHAIR does.

    Attributes:
        inputs: of the model's forward for one prompt, without padding.
        token_ids: int64 `[t]`, the answer.
        invented: places in the answer, from 0, of tokens that name objects which are not in the picture.
        grounded: places of tokens that name objects which are.
    """

    inputs: Mapping[str, Any]
    token_ids: Tensor
    invented: Sequence[int]
    grounded: Sequence[int]


@dataclass(frozen=True)
class TextBound(Scorer):
    """AD-HH's attribution: how much what a head reads in the answer so far favours invented words over true ones.

    High means a bad head, a candidate for `adhh`: damping what it reads of the answer makes invented words less likely.
    It is a derivative, so one forward and one backward pass stand for as many forwards as there are heads.

    Formula:
        f(g)    = mean log p(invented token) - mean log p(true token)   with g[l, i] on head i's generated-text route
        s[l, i] = d f / d g[l, i]   at g = 1, a mean over answers
    """

    name: ClassVar[str] = "adhh"
    label: ClassVar[str] = "AD-HH's attribution"
    paper: ClassVar[Paper | None] = Paper(
        "Yang et al.",
        "Mitigating Hallucination in Large Vision-Language Models via Modular Attribution and Intervention",
        2025,
        "ICLR",
    )
    needs: ClassVar[Needs] = "answers"
    cost: ClassVar[str] = "1 forward and 1 backward pass"
    unit: ClassVar[str] = "nat of log-probability a gain of 1"

    def look(
        self, model: nn.Module, processor: Any, anatomy: Anatomy, examples: Sequence[Example]
    ) -> Iterator[Found | None]:
        for example in examples:
            case = case_of(model, processor, anatomy, example)
            if not case.answer or not case.decisions or example.truth is not None:
                yield None
                continue
            places = {
                right: [one.column + 1 - case.begin for one in case.decisions if one.right is right]
                for right in (True, False)
            }
            prompt = model_inputs(model, processor, [load_image(example.image)], [example.prompt])
            answer = MarkedAnswer(prompt, torch.tensor(case.answer), places[False], places[True])
            yield Found(attribution(model, anatomy, answer)[None])


class _AnswerRoutes(Watcher):
    """Keeps each head's output, to be differentiated by, and what keys of the answer contribute to it.

    Args:
        begin: the answer's first column.
    """

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.outputs: dict[int, Tensor] = {}
        self.routes: dict[int, Tensor] = {}

    def see(self, call: AttentionCall) -> None:
        assert call.output is not None, "watchers see it"
        # where no weight of the model asks for a gradient, it begins here
        self.outputs[call.layer] = call.output if call.output.requires_grad else call.output.requires_grad_()
        classes = call.key_class().clone()
        classes[:, self.begin :] = int(KeyClass.GENERATED)
        alone = torch.zeros((*call.query.shape[:2], CLASS_COUNT), dtype=call.query.dtype, device=call.query.device)
        alone[..., KeyClass.GENERATED] = 1.0
        states = (one.detach() for one in (call.query, call.key, call.value))
        plan = AttentionPlan(class_gain=alone)
        self.routes[call.layer], _ = attend(*states, plan=plan, key_class=classes, mask=call.mask, scale=call.scale)


def attribution(model: nn.Module, anatomy: Anatomy, answer: MarkedAnswer) -> Tensor:
    """Return float32 `[L, Hq]`: one answer's part; 0 where no word of it is judged.

    Raises:
        BadOption: if a place is outside the answer.
    """
    _check(answer)
    prompt: Tensor = answer.inputs["input_ids"]
    assert prompt.shape[0] == 1, "one prompt at a time"
    tokens = answer.token_ids.to(prompt.device)
    watcher = _AnswerRoutes(begin=prompt.shape[1])
    with torch.enable_grad(), attach(model, watch=[watcher]):
        inputs = with_answer(answer.inputs, tokens.tolist())
        logits = model(**inputs, use_cache=False).logits[0, prompt.shape[1] - 1 : -1]
        said = logits.float().log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
        target = _mean(said, answer.invented) - _mean(said, answer.grounded)
        gradients = torch.autograd.grad(target, list(watcher.outputs.values()), allow_unused=True)
    scores = torch.zeros(anatomy.depth, anatomy.heads)
    for layer, gradient in zip(watcher.outputs, gradients, strict=True):
        if gradient is not None:
            route = watcher.routes[layer].transpose(1, 2)[0]  # [T, Hq, D]
            scores[layer] = (gradient[0].float() * route.float()).sum(dim=(0, 2)).cpu()
    return scores


def _mean(said: Tensor, places: Sequence[int]) -> Tensor:
    return said[list(places)].mean() if places else said.sum() * 0.0


def _check(answer: MarkedAnswer) -> None:
    length = len(answer.token_ids)
    outside = [place for place in (*answer.invented, *answer.grounded) if not 0 <= place < length]
    if outside:
        raise BadOption(f"place {outside[0]} is outside an answer of {length} tokens")
