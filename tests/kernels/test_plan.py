"""Plans are data: what they refuse, and what combining two of them means."""

import pytest
import torch
import vlm_kernels
from vlm_kernels import AttentionPlan, Redistribution, attend

GAIN = torch.tensor([[2.0, 3.0]])
ROWS = torch.tensor([4])


def test_gains_multiply_and_boosts_add():
    boost = torch.ones(1, 1, 6)
    both = AttentionPlan(head_gain=GAIN, logit_boost=boost) | AttentionPlan(head_gain=GAIN, logit_boost=boost)
    assert both.head_gain.tolist() == [[4.0, 9.0]]
    assert both.logit_boost.tolist() == (2 * boost).tolist()


def test_key_weights_and_value_gains_multiply_and_empty_keys_add():
    one = AttentionPlan(
        key_weight=torch.full((1, 1, 6), 3.0), value_gain=torch.full((1, 2, 6), 2.0), empty_key=torch.ones(1, 1, 1)
    )
    both = one | one
    assert both.key_weight.unique().tolist() == [9.0]
    assert both.value_gain.unique().tolist() == [4.0]
    assert both.empty_key.tolist() == [[[2.0]]]


def test_class_gains_of_different_length_multiply_as_if_filled_with_ones():
    short, long = torch.full((1, 2, 4), 2.0), torch.full((1, 2, 6), 3.0)
    both = AttentionPlan(class_gain=short) | AttentionPlan(class_gain=long)
    assert both.class_gain[0, 0].tolist() == [6.0, 6.0, 6.0, 6.0, 3.0, 3.0]
    assert both.classes == 6


def test_an_empty_plan_is_neutral_in_a_combination():
    rule = Redistribution()
    plan = AttentionPlan(head_gain=GAIN, redistribution=rule, class_gain=torch.ones(1, 2, 5), rows=ROWS)
    for both in (plan | AttentionPlan(), AttentionPlan() | plan):
        assert both.head_gain is GAIN
        assert both.redistribution is rule
        assert both.rows is ROWS


def test_rows_belong_to_the_plan_that_uses_them():
    boosting = AttentionPlan(logit_boost=torch.ones(1, 1, 6), rows=ROWS)
    assert (AttentionPlan(head_gain=GAIN, rows=torch.tensor([9])) | boosting).rows is ROWS
    assert (boosting | AttentionPlan(class_gain=torch.ones(1, 2, 5), rows=ROWS.clone())).rows is ROWS


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match="both redistribute"):
        AttentionPlan(redistribution=Redistribution()) | AttentionPlan(redistribution=Redistribution())
    with pytest.raises(ValueError, match="as another head does"):
        AttentionPlan(head_source=torch.zeros(1, 2).long()) | AttentionPlan(head_source=torch.zeros(1, 2).long())
    boosting = AttentionPlan(logit_boost=torch.ones(1, 1, 6), rows=ROWS)
    for other in ({"class_gain": torch.ones(1, 2, 5)}, {"key_weight": torch.ones(1, 1, 6)}):
        with pytest.raises(ValueError, match="same rows"):
            boosting | AttentionPlan(**other)
    with pytest.raises(TypeError):
        boosting | 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Redistribution(moved=1.5), "0..1"),
        (lambda: Redistribution(max_sink_share=-0.1), "0..1"),
        (lambda: Redistribution(heads=torch.ones(1, 2)), "bool"),
        (lambda: Redistribution(rows=torch.tensor([1.0])), "int64"),
        (lambda: AttentionPlan(head_gain=torch.ones(2)), "2 dimensions"),
        (lambda: AttentionPlan(class_gain=torch.ones(1, 2, 9)), "9 classes"),
        (lambda: AttentionPlan(logit_boost=torch.ones(1, 2, 3, dtype=torch.int64)), "floating point"),
        (lambda: AttentionPlan(key_weight=torch.ones(3)), "3 dimensions"),
        (lambda: AttentionPlan(empty_key=torch.ones(1, 2)), "3 dimensions"),
        (lambda: AttentionPlan(head_source=torch.ones(1, 2)), "int64"),
        (lambda: AttentionPlan(rows=torch.tensor(3)), "int64"),
    ],
)
def test_a_malformed_plan_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": AttentionPlan(head_gain=torch.ones(2, 2))}, "plan.head_gain"),
        ({"plan": AttentionPlan(logit_boost=torch.ones(1, 1, 5))}, "plan.logit_boost"),
        ({"plan": AttentionPlan(value_gain=torch.ones(1, 1, 5))}, "plan.value_gain"),
        ({"plan": AttentionPlan(empty_key=torch.ones(1, 1, 4))}, "plan.empty_key"),
        ({"plan": AttentionPlan(head_source=torch.zeros(1, 3).long())}, "plan.head_source"),
        ({"plan": AttentionPlan(redistribution=Redistribution())}, "key_class"),
        ({"want": ("mass",)}, "key_class"),
        ({"want": ("weights",)}, "want takes"),
        ({"want": "mass"}, "want takes"),
        ({"backend": "fastest"}, "backend 'fastest'"),
        ({"mask": torch.ones(1, 1, 1, 3, dtype=torch.bool)}, "mask"),
        ({"value": torch.zeros(1, 1, 3, 8)}, "do not fit"),
    ],
)
def test_a_malformed_call_is_refused(change, message):
    states = {"query": torch.zeros(1, 2, 1, 8), "key": torch.zeros(1, 1, 4, 8), "value": torch.zeros(1, 1, 4, 8)}
    with pytest.raises(ValueError, match=message):
        attend(**(states | {"plan": AttentionPlan()} | change))


def test_triton_by_name_is_refused_where_it_cannot_run():
    states = torch.zeros(3, 1, 2, 1, 64)
    with pytest.raises(RuntimeError, match="not on a CUDA device"):
        attend(*states, plan=AttentionPlan(), backend="triton")
    with pytest.raises(RuntimeError, match="head sizes 8 and 8"):
        attend(*states[..., :8], plan=AttentionPlan(), backend="triton")


def test_the_public_list_is_what_is_there():
    assert all(hasattr(vlm_kernels, name) for name in vlm_kernels.__all__)
    assert vlm_kernels.__all__ == sorted(
        vlm_kernels.__all__, key=lambda name: (not name.isupper(), name.islower(), name)
    )
