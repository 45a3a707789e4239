"""The specification itself: worked numbers and the laws it must keep."""

import math

import pytest
import torch
from vlm_kernels import AttentionPlan, KeyClass, Redistribution, reference

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
