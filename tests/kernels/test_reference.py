"""The specification itself: worked numbers and the laws it must keep."""

import math

import pytest
import torch
from vlm_kernels import AttentionPlan, KeyClass, Redistribution, attend, reference

from tests.support.compare import distance, rounding

CLASSES = [KeyClass.TEXT, KeyClass.TEXT_SINK, KeyClass.IMAGE_SINK, KeyClass.IMAGE, KeyClass.IMAGE]
WEIGHTS = [0.3, 0.2, 0.1, 0.1, 0.3]


def one_row(plan, weights=WEIGHTS, classes=CLASSES, want=("moved", "mass", "blinded")):
    """Attend one row whose softmax weights are given; the output's entry j is then the weight of key j."""
    keys = len(weights)
    query = torch.tensor([[[[1.0]]]], dtype=torch.float64)
    key = torch.tensor(weights, dtype=torch.float64).log().view(1, 1, keys, 1)
    value = torch.eye(keys, dtype=torch.float64)[None, None]
    key_class = torch.tensor([classes], dtype=torch.int8)
    output, aux = reference.attend(query, key, value, plan=plan, key_class=key_class, scale=1.0, want=want)
    return output.flatten().tolist(), aux


def test_redistribution_worked_by_hand():
    # Image mass 0.1 + 0.4 = 0.5 >= 0.2, sink share 0.1 / 0.5 = 0.2 <= 0.5: selected. Sinks hand on 0.6 * (0.2 + 0.1)
    # = 0.18 and keep 0.08 and 0.04; image keys grow by 1 + 0.18 / 0.4 = 1.45 to 0.145 and 0.435. Sum: 1.
    weights, aux = one_row(AttentionPlan(redistribution=Redistribution()))
    assert weights == pytest.approx([0.3, 0.08, 0.04, 0.145, 0.435])
    assert aux.moved.item() == pytest.approx(0.18)
    assert aux.mass.flatten().tolist() == pytest.approx([0.3, 0.2, 0.1, 0.4, 0.0])


def test_blinded_output_worked_by_hand():
    # Without the image keys 0.3 and 0.2 are left: 0.6 and 0.4 of their sum.
    _, aux = one_row(AttentionPlan())
    assert aux.blinded.flatten().tolist() == pytest.approx([0.6, 0.4, 0, 0, 0])


@pytest.mark.parametrize(
    ("rule", "selected"),
    [
        (Redistribution(min_image_mass=0.49), True),
        (Redistribution(min_image_mass=0.51), False),
        (Redistribution(max_sink_share=0.21), True),
        (Redistribution(max_sink_share=0.19), False),
        (Redistribution(max_sink_share=0.19, share_epsilon=0.01), True),  # 0.1 / (0.5 + 3 * 0.01) = 0.189
        (Redistribution(heads=torch.tensor([[False]])), False),
        (Redistribution(rows=torch.tensor([1])), False),
        (Redistribution(rows=torch.tensor([0])), True),
    ],
)
def test_a_row_is_selected_by_both_conditions_its_head_and_its_place(rule, selected):
    weights, aux = one_row(AttentionPlan(redistribution=rule))
    assert (aux.moved.item() > 0) == selected
    assert (weights == pytest.approx(WEIGHTS)) == (not selected)


def test_strict_comparison_leaves_a_row_on_the_threshold_alone():
    # No sink in the image: its share is 0, which is allowed up to 0, but is not below 0.
    classes = [KeyClass.TEXT, KeyClass.TEXT_SINK, KeyClass.IMAGE, KeyClass.IMAGE, KeyClass.IMAGE]
    for strict in (False, True):
        rule = Redistribution(max_sink_share=0.0, strict=strict)
        _, aux = one_row(AttentionPlan(redistribution=rule), classes=classes)
        assert (aux.moved.item() > 0) != strict


def test_class_gain_is_not_renormalised():
    gain = torch.tensor([[[1.0, 1.0, 1.0, 2.0]]])
    weights, _ = one_row(AttentionPlan(class_gain=gain))
    assert weights == pytest.approx([0.3, 0.2, 0.1, 0.2, 0.6])


def test_boost_worked_by_hand():
    # log 0.3 + 0.5 * |log 0.3| = log 0.3 / 2, so that the last key's weight goes from 0.3 to sqrt(0.3) of the new sum.
    boost = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 0.5]]])
    weights, _ = one_row(AttentionPlan(logit_boost=boost))
    assert weights[-1] == pytest.approx(math.sqrt(0.3) / (0.7 + math.sqrt(0.3)))


def test_key_weight_worked_by_hand():
    # 0.3, 0.2, 0.1, 0 * 0.1, 2 * 0.3 of their sum 1.2
    weights, aux = one_row(AttentionPlan(key_weight=torch.tensor([[[1.0, 1.0, 1.0, 0.0, 2.0]]])))
    assert weights == pytest.approx([0.25, 1 / 6, 1 / 12, 0.0, 0.5])
    assert aux.mass.flatten().tolist() == pytest.approx([0.25, 1 / 6, 1 / 12, 0.5, 0.0])


def test_value_gain_worked_by_hand():
    # the weights stay 0.3, 0.2, 0.1, 0.1, 0.3; without image 0.6 and 0.4, of values that are 2 and 3 times as large
    weights, aux = one_row(AttentionPlan(value_gain=torch.tensor([[[2.0, 3.0, 1.0, 1.0, 0.0]]])))
    assert weights == pytest.approx([0.6, 0.6, 0.1, 0.1, 0.0])
    assert aux.mass.flatten().tolist() == pytest.approx([0.3, 0.2, 0.1, 0.4, 0.0])
    assert aux.blinded.flatten().tolist() == pytest.approx([1.2, 1.2, 0, 0, 0])


def test_empty_key_worked_by_hand():
    # e^z are the weights themselves, sum 1: beside an empty key of 0.25 each is divided by 1.25
    weights, aux = one_row(AttentionPlan(empty_key=torch.tensor([[[0.25]]])))
    assert weights == pytest.approx([0.24, 0.16, 0.08, 0.08, 0.24])
    assert aux.mass.sum().item() == pytest.approx(0.8)
    assert aux.blinded.flatten().tolist() == pytest.approx([0.6, 0.4, 0, 0, 0])


def test_a_head_attends_as_its_source_does():
    query = torch.tensor([[[[1.0]], [[-2.0]]]], dtype=torch.float64)
    key = torch.tensor([[[[1.0], [3.0]], [[2.0], [5.0]]]], dtype=torch.float64)
    value = torch.tensor([[[[1.0], [0.0]], [[0.0], [1.0]]]], dtype=torch.float64)
    plan = AttentionPlan(head_source=torch.tensor([[1, 1]]))
    output, _ = reference.attend(query, key, value, plan=plan, scale=1.0)
    # both heads have head 1's logits -4 and -10; head 0 shows the first weight, head 1 the second
    first = 1 / (1 + math.exp(-6))
    assert output.flatten().tolist() == pytest.approx([first, 1 - first])


@pytest.mark.parametrize("shape", ["decode-96-group-7", "prefill-continued"])
def test_a_key_of_weight_two_is_a_key_that_is_there_twice(shape, make_call):
    call = make_call(shape, "head-gain").to(torch.float64)
    keys, twice = call.key.shape[2], 3
    weight = torch.ones(1, 1, keys)
    weight[..., twice] = 2.0
    once, _ = attend(**call.arguments() | {"plan": AttentionPlan(key_weight=weight)}, backend="reference")
    again = [torch.cat([part, part[..., twice : twice + 1, :]], dim=2) for part in (call.key, call.value)]
    classes = torch.cat([call.key_class, call.key_class[:, twice : twice + 1]], dim=1)
    mask = None if call.mask is None else torch.cat([call.mask, call.mask[..., twice : twice + 1]], dim=-1)
    both, _ = attend(call.query, *again, plan=AttentionPlan(), key_class=classes, mask=mask, backend="reference")
    assert distance(once, both) < rounding(torch.float64, terms=keys)


def test_a_key_of_weight_zero_is_a_key_that_is_hidden(make_call):
    call = make_call("prefill-continued", "head-gain").to(torch.float64)
    dropped = torch.arange(call.key.shape[2]) % 3 == 1
    plan = AttentionPlan(key_weight=(~dropped).double()[None, None])
    output, aux = attend(**call.arguments() | {"plan": plan}, backend="reference", want=("mass",))
    mask = call.mask & ~dropped
    hidden = call.arguments() | {"plan": AttentionPlan(), "mask": mask}
    expected, seen = attend(**hidden, backend="reference", want=("mass",))
    close = rounding(torch.float64, terms=call.key.shape[2])
    assert distance(output, expected) < close
    assert distance(aux.mass, seen.mass) < close


def test_an_empty_key_is_a_key_without_value(make_call):
    call = make_call("prefill-float-mask", "head-gain").to(torch.float64)
    size = torch.rand(2, 1, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    output, _ = attend(**call.arguments() | {"plan": AttentionPlan(empty_key=size)}, backend="reference")
    nothing = torch.zeros_like(call.key[:, :, :1])
    key, value = (torch.cat([part, nothing], dim=2) for part in (call.key, call.value))
    classes = torch.cat([call.key_class, torch.zeros_like(call.key_class[:, :1])], dim=1)
    mask = torch.cat([call.mask.double(), size.log()[..., None]], dim=-1)
    expected, _ = attend(
        call.query, key, value, plan=AttentionPlan(), key_class=classes, mask=mask, backend="reference"
    )
    assert distance(output, expected) < rounding(torch.float64, terms=call.key.shape[2])


def test_redistribution_is_softmax_with_the_logarithm_of_the_factor_added(make_call):
    call = make_call("decode-96-group-7", "redistribution").to(torch.float64)
    output, _ = reference.attend(**call.arguments())
    groups = call.query.shape[1] // call.key.shape[1]
    key, value = (states.repeat_interleave(groups, 1) for states in (call.key, call.value))
    logits = call.query @ key.transpose(-1, -2) * call.query.shape[-1] ** -0.5
    mass = reference.class_mass(logits.softmax(-1), call.key_class, 5)
    factors, moved = reference.class_factors(mass, call.key_class, call.plan)
    index = call.key_class.long()[:, None, None, :].expand_as(logits)
    again = (logits + factors.gather(-1, index).log()).softmax(-1)
    assert moved.any()
    close = rounding(torch.float64, terms=call.key.shape[2])
    assert distance(output, again @ value) < close
    assert distance((factors * mass).sum(-1), torch.ones_like(moved)) < close
