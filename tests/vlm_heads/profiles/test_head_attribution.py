"""Attribution of heads against finite differences of the gain on their generated-text route."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from vlm_kernels import AttentionPlan

from tests.support.compare import distance
from tests.support.families import Build, Tiny
from vlm_heads import attach
from vlm_heads.call import AttentionCall
from vlm_heads.errors import BadOption
from vlm_heads.families import Anatomy
from vlm_heads.interventions.base import Intervention
from vlm_heads.profiles.head_attribution import MarkedAnswer, attribute_heads, worst_heads

ANSWER = torch.tensor([20, 31, 42, 53])
INVENTED, GROUNDED = (2,), (1, 3)


@dataclass(frozen=True)
class _Gained(Intervention):
    """Gains what the answer's keys, marked as sinks, contribute to one head."""

    name: ClassVar[str] = "gained"
    neutral: ClassVar[Mapping[str, Any]] = {}

    layer: int
    head: int
    gain: float
    begin: int

    def layers_in(self, anatomy: Anatomy) -> frozenset[int]:
        return frozenset({self.layer})

    def plan(self, call: AttentionCall) -> AttentionPlan | None:
        keys = torch.arange(call.key.shape[2])
        call.mark_sinks((keys >= self.begin)[None])
        gain = torch.ones(1, 4, 5, dtype=torch.float64)
        gain[0, self.head, 1] = self.gain
        return AttentionPlan(class_gain=gain)


def _target(model: nn.Module, answer: MarkedAnswer, edit: Intervention) -> float:
    ids = torch.cat([answer.inputs["input_ids"], ANSWER[None]], 1)
    shown = {name: value for name, value in answer.inputs.items() if name not in ("input_ids", "mm_token_type_ids")}
    if "mm_token_type_ids" in answer.inputs:
        shown["mm_token_type_ids"] = torch.cat([answer.inputs["mm_token_type_ids"], torch.zeros(1, 4).int()], 1)
    with torch.no_grad(), attach(model, [edit], allow_idle=True, backend="reference"):
        logits = model(input_ids=ids, **shown).logits[0, -5:-1]
    said = logits.log_softmax(-1)[torch.arange(4), ANSWER]
    return float(said[list(INVENTED)].mean() - said[list(GROUNDED)].mean())


@pytest.mark.parametrize(("family_name", "heads"), [("llava", ((0, 1), (1, 0), (2, 3))), ("qwen3_5", ((1, 0), (1, 3)))])
def test_equals_finite_differences(family_name: str, heads: tuple[tuple[int, int], ...], tiny: Build) -> None:
    """Qwen3.5 gates what its heads give, and has heads on its second layer alone."""
    built = tiny(family_name)
    model = built.model.double()
    inputs = {**built.inputs, "pixel_values": built.inputs["pixel_values"].double()}
    answer = MarkedAnswer(inputs, ANSWER, INVENTED, GROUNDED)
    scores = attribute_heads(model, [answer])
    begin = inputs["input_ids"].shape[1]
    # Llama's norms round to float32, so that the step has to be large against 1e-7
    for layer, head in heads:
        up, down = (_target(model, answer, _Gained(layer, head, 1 + step, begin)) for step in (0.03, -0.03))
        assert scores[layer, head].item() == pytest.approx((up - down) / 0.06, rel=1e-2, abs=1e-5)
    assert scores.abs().max() > 1e-3


def test_frozen_weights_are_enough_and_nothing_stays(llava: Tiny) -> None:
    answer = MarkedAnswer(llava.inputs, ANSWER, INVENTED, GROUNDED)
    expected = attribute_heads(llava.model, [answer])
    llava.model.requires_grad_(False)
    assert distance(attribute_heads(llava.model, [answer]), expected) < 1e-6
    assert all(parameter.grad is None for parameter in llava.model.parameters())
    assert not any(projection._forward_pre_hooks for projection in llava.projections().values())


def test_the_worst_are_the_highest_above_zero() -> None:
    scores = Tensor([[0.1, -0.5, 0.3], [0.0, 0.9, -0.1]])
    assert worst_heads(scores, 2) == ((1, 1), (0, 2))
    assert worst_heads(scores) == ((1, 1), (0, 2), (0, 0))


def test_answers_without_a_judged_word_are_refused(llava: Tiny) -> None:
    with pytest.raises(BadOption, match="judged word"):
        attribute_heads(llava.model, [MarkedAnswer(llava.inputs, ANSWER, (), ())])
    with pytest.raises(BadOption, match="outside an answer of 4"):
        attribute_heads(llava.model, [MarkedAnswer(llava.inputs, ANSWER, (4,), ())])
