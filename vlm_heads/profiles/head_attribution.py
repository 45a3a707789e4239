"""Which heads push invented words by reading the text written so far: the list that AD-HH needs, from one gradient.

The authors switch heads off one by one, with as many forwards as there are heads (Yang et al., ICLR 2025). Here one
gradient gives the effect of damping each head's generated-text route, to first order, for all heads at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vlm_kernels import CLASS_COUNT, AttentionPlan, KeyClass, attend

from vlm_heads.attach import attach
from vlm_heads.attached.watcher import Watcher
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy, examine
from vlm_heads.models.prompts import with_answer


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
        _check(answer)
        if answer.invented or answer.grounded:
            total += _of_answer(model, anatomy, answer)
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


def _of_answer(model: nn.Module, anatomy: Anatomy, answer: MarkedAnswer) -> Tensor:
    """Return one answer's part, `[L, Hq]`."""
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
