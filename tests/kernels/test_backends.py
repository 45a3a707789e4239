"""Every backend agrees with the float64 specification, whatever the shape and the plan."""

from dataclasses import replace

import pytest
import torch
from vlm_kernels import AttentionPlan, KeyClass, Redistribution, attend, torch_backend
from vlm_kernels.plan import PER_KEY

from tests.support.compare import distance, equal
from tests.support.specification import TOLERANCE, stock_error


@pytest.mark.usefixtures("poisoned_memory")
def test_torch_agrees_with_the_specification(any_shape, any_plan, make_call, disagreement):
    call = make_call(any_shape, any_plan)
    assert disagreement(call, *call.run("torch")) == ""
    assert disagreement(call, *call.run("torch", want=())) == ""


def test_chunks_of_a_long_tail_join(make_call, disagreement, monkeypatch):
    monkeypatch.setattr(torch_backend, "CHUNK_WEIGHTS", 1000)  # two rows of 96 keys and four heads at a time
    for plan in ("redistribution-picked", "everything"):
        call = make_call("prefill-96-group-4", plan)
        assert disagreement(call, *call.run("torch")) == ""


def test_float64_is_computed_in_float64(make_call, disagreement):
    call = make_call("prefill", "everything").to(torch.float64)
    assert disagreement(call, *call.run("torch"), tolerance=1e-13, mass=1e-13) == ""


@pytest.mark.parametrize("shape", ["decode-96-group-7", "prefill-96-group-4", "decode-padded", "all-sinks"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_stock_attention(shape, dtype, make_call, disagreement):
    """The edited output may be as far off as stock attention in the same dtype is, for unit gains twice that."""
    call = make_call(shape, "redistribution").to(dtype)
    allowed, blinded = (2 * stock_error(call, blinded) for blinded in (False, True))
    output, aux = call.run("torch")
    assert output.dtype is dtype
    mass = 2e-6 if dtype is torch.float16 else 1e-5
    assert disagreement(call, output, aux, tolerance=allowed, mass=mass, blinded=blinded) == ""


@pytest.mark.parametrize("shape", ["decode", "decode-padded", "prefill", "prefill-padded", "prefill-continued"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_neutral_plan_is_stock_attention_bit_for_bit(shape, backend, make_call):
    call = make_call(shape, "head-gain")
    ones = torch.ones_like(call.plan.head_gain)
    plain = torch_backend.plain_attention(call.query, call.key, call.value, call.mask, None)
    for plan in (AttentionPlan(), AttentionPlan(head_gain=ones), AttentionPlan(redistribution=Redistribution(moved=0))):
        output, _ = replace(call, plan=plan).run(backend, want=())
        assert equal(output, plain)


@pytest.mark.parametrize("shape", ["decode", "prefill"])
def test_a_head_gain_is_a_multiply(shape, make_call):
    call = make_call(shape, "head-gain")
    plain = torch_backend.plain_attention(call.query, call.key, call.value, call.mask, None)
    output, _ = call.run("auto", want=())
    assert equal(output, plain * call.plan.head_gain[:, :, None, None])


def test_stock_output_can_be_handed_in_and_is_not_written_to(make_call, disagreement):
    call = make_call("prefill", "redistribution-picked")
    plain = torch_backend.plain_attention(call.query, call.key, call.value, call.mask, None)
    before = plain.clone()
    output, aux = attend(**call.arguments(), plain_output=plain, want=("moved",))
    assert equal(plain, before)
    assert disagreement(call, output, aux) == ""
    untouched = aux.moved == 0
    gained = plain * call.plan.head_gain[:, :, None, None]
    assert untouched.any()
    assert not untouched.all()
    assert equal(output[untouched], gained[untouched])


def test_a_batch_gives_what_its_rows_give_alone(any_plan, make_call):
    call = make_call("decode-96-group-7", any_plan)
    together, _ = call.run("torch")
    for row in range(2):
        here = slice(row, row + 1)

        def alone(tensor, here=here):
            return tensor if tensor is None or tensor.shape[0] == 1 else tensor[here]

        rule = call.plan.redistribution
        if rule is not None:
            rule = replace(rule, heads=alone(rule.heads), rows=alone(rule.rows))
        names = ("head_gain", "class_gain", "empty_key", "head_source", "rows", *PER_KEY)
        plan = AttentionPlan(redistribution=rule, **{name: alone(getattr(call.plan, name)) for name in names})
        states = (call.query[here], call.key[here], call.value[here])
        output, _ = attend(*states, plan=plan, key_class=call.key_class[here], backend="torch")
        assert distance(output, together[here]) < TOLERANCE


def test_rows_without_a_visible_key_are_zero(make_call):
    for backend in ("reference", "torch"):
        output, aux = make_call("decode-all-masked", "everything").run(backend)
        assert not output[0].any()
        assert not aux.mass[0].any()
        assert not aux.blinded[0].any()
        assert output[1].any()


def test_the_comparison_catches_wrong_classes(make_call, disagreement):
    call = make_call("decode-96-group-7", "redistribution")
    swapped = call.key_class.clone()
    swapped[call.key_class == KeyClass.TEXT_SINK] = KeyClass.TEXT
    output, aux = replace(call, key_class=swapped).run("torch", want=("moved",))
    assert call.run("torch")[1].moved.any()
    assert "output is off" in disagreement(call, output, aux)
    assert "moved is off" in disagreement(call, output, aux)


def test_the_comparison_catches_weight_that_is_lost(make_call, disagreement):
    call = make_call("decode-96-group-7", "redistribution")
    plain, aux = call.run("torch")
    kept = 1.0 - call.plan.redistribution.moved  # sinks lose weight, but nobody receives it
    sinks_only = torch.tensor([1.0, kept, kept, 1.0, 1.0]).expand(*call.query.shape[:2], 5)
    output, _ = replace(call, plan=AttentionPlan(class_gain=sinks_only)).run("torch")
    assert disagreement(call, plain, aux) == ""
    assert "output is off" in disagreement(call, output, aux)


def test_the_comparison_catches_unwritten_memory(make_call, disagreement):
    call = make_call("decode", "redistribution")
    output, aux = call.run("torch")
    output[0, 0, 0, 3] = torch.nan
    assert "output is off by inf" in disagreement(call, output, aux)
