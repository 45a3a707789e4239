"""Gradients through edited attention equal differences of the other backends' outputs."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vlm_kernels import attend, prepare_decode, torch_backend

from tests.support.compare import distance
from tests.support.specification import TOLERANCE

STEP = 1e-6


def _states(call) -> tuple[Tensor, Tensor, Tensor]:
    return call.query, call.key, call.value


def _moved(call, directions, step):
    moved = [state + step * direction for state, direction in zip(_states(call), directions, strict=True)]
    return replace(call, query=moved[0], key=moved[1], value=moved[2])


@pytest.mark.parametrize("given", ["plain output", "nothing"])
def test_gradients_equal_differences(any_shape, any_plan, given, make_call):
    call = make_call(any_shape, any_plan).to(torch.float64)
    if call.mask is not None and call.mask.is_floating_point():  # stock attention takes it in the query's dtype
        call = replace(call, mask=call.mask.double())
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(state.shape, generator=generator, dtype=torch.float64) for state in _states(call)]
    output, _ = call.run("torch", want=())
    weigh = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    ahead, behind = (_moved(call, directions, step).run("torch", want=())[0] for step in (STEP, -STEP))
    expected = ((ahead - behind) * weigh).sum() / (2 * STEP)

    states = [state.requires_grad_() for state in _states(call)]
    plain = None
    if given == "plain output" and call.query.shape[2] > 1:
        rows = call.query.shape[2]
        cut = rows if call.mask is None else call.key.shape[2]
        plain = torch_backend.plain_attention(states[0], *(one[:, :, :cut] for one in states[1:]), call.mask, None)
        plain = plain.nan_to_num(0.0)
    got, aux = attend(**call.arguments(), want=("moved",), plain_output=plain)
    assert distance(got, output) < 1e-12
    assert aux.moved is not None
    (got * weigh).sum().backward()
    found = sum((state.grad * direction).sum() for state, direction in zip(states, directions, strict=True))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


def test_single_precision_agrees_with_the_specification(any_shape, any_plan, make_call, disagreement):
    call = make_call(any_shape, any_plan)
    call.query.requires_grad_()
    output, aux = call.run("auto")
    assert output.requires_grad
    plain = make_call(any_shape, any_plan)
    detached = replace(aux, **{name: getattr(aux, name).detach() for name in ("mass", "blinded", "moved")})
    assert disagreement(plain, output.detach(), detached, tolerance=2 * TOLERANCE) == ""


def test_what_has_no_backward_says_so(make_call, monkeypatch):
    call = make_call("decode", "redistribution")
    call.key.requires_grad_()
    with pytest.raises(RuntimeError, match="no backward"):
        call.run("triton")
    assert prepare_decode(*_states(call), plan=call.plan, key_class=call.key_class) is None
    with torch.no_grad():
        assert prepare_decode(*_states(call), plan=call.plan, key_class=call.key_class) is not None
