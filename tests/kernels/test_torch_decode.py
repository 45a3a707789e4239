"""Plans made ready for decoding: every step agrees with the specification, however many keys were generated since."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad
from vlm_kernels import AttentionPlan, KeyClass, StepMask, prepare_decode, torch_decode

READY = ("redistribution", "redistribution-strict", "redistribution-picked", "class-gain", "eight-classes")
SHAPES = ("decode", "decode-80-group-4", "decode-96-group-7", "decode-padded", "decode-float-mask", "no-image")


def ready(call):
    return prepare_decode(call.query, call.key, call.value, plan=call.plan, key_class=call.key_class)


def grown(call, count):
    """Return the call of a later step: other states, and `count` generated keys behind those there were."""
    generator = torch.Generator().manual_seed(count)

    def more(states):
        fresh = torch.randn(*states.shape[:2], count, states.shape[3], generator=generator).to(states.dtype)
        return torch.cat([states, fresh], dim=2)

    mask = call.mask
    if mask is not None:
        mask = pad(mask, (0, count), value=True if mask.dtype is torch.bool else 0.25)
    key_class = pad(call.key_class, (0, count), value=int(KeyClass.GENERATED))
    query = torch.randn(call.query.shape, generator=generator).to(call.query.dtype)
    return replace(call, query=query, key=more(call.key), value=more(call.value), key_class=key_class, mask=mask)


def decoded(prepared, call):
    step = StepMask.of(call.mask, call.key_class, call.key.shape[1], call.query.dtype)
    assert step.usable
    output, moved = prepared.attend(call.query, call.key, call.value, step, None)
    _, aux = call.run("torch", want=("mass",))
    return output.transpose(1, 2), replace(aux, moved=moved)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("plan", READY)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_step_agrees_with_the_specification(shape, plan, make_call, disagreement, monkeypatch):
    monkeypatch.setattr(torch_decode, "ROOM", 2)  # so that a class gain is laid out anew on the way
    first = make_call(shape, plan)
    prepared = ready(first)
    for count in (0, 1, 2, 3, 70):
        call = grown(first, count)
        assert disagreement(call, *decoded(prepared, call)) == ""


def test_a_plan_with_everything_that_lasts(make_call, disagreement):
    first = make_call("decode-96-group-7", "everything")
    first = replace(first, plan=replace(first.plan, logit_boost=None))
    call = grown(first, 5)
    assert disagreement(call, *decoded(ready(first), call)) == ""


def test_tables_of_other_classes_are_caught(make_call, disagreement):
    first = make_call("decode-96-group-7", "redistribution")
    other = torch.where(first.key_class == KeyClass.TEXT_SINK, int(KeyClass.TEXT), first.key_class).to(torch.int8)
    call = grown(first, 3)
    assert "output is off" in disagreement(call, *decoded(ready(replace(first, key_class=other)), call))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_back_in_half_precision(dtype, make_call, disagreement):
    first = make_call("decode-96-group-7", "redistribution-picked").to(dtype)
    call = grown(first, 3)
    output, aux = decoded(ready(first), call)
    assert output.dtype is dtype
    assert disagreement(call, output, aux, tolerance=2e-2, mass=1e-5) == ""


def test_a_row_that_sees_nothing_is_left_to_attend(make_call):
    call = make_call("decode-all-masked", "redistribution")
    assert not StepMask.of(call.mask, call.key_class, call.key.shape[1], call.query.dtype).usable
    output, _ = call.run("torch", want=())
    assert not output[0].any()


def test_what_changes_with_every_step_is_not_made_ready(make_call):
    assert ready(make_call("decode", "boost")) is None
    assert ready(make_call("decode", "head-gain")) is None
    call = make_call("decode", "redistribution")
    by_key = torch.ones(1, 1, call.key.shape[2])
    for other in (
        {"logit_factor": by_key},
        {"key_weight": by_key},
        {"value_gain": by_key},
        {"empty_key": by_key[..., :1]},
    ):
        assert ready(replace(call, plan=call.plan | AttentionPlan(**other))) is None
    states = (call.query, call.key, call.value)
    for backend in ("triton", "reference"):
        assert prepare_decode(*states, plan=call.plan, key_class=call.key_class, backend=backend) is None
    with pytest.raises(ValueError, match="key_class"):
        prepare_decode(*states, plan=call.plan, key_class=call.key_class[:, :3])
