"""Triton on a real GPU against the specification, in full: every shape, plan and dtype."""

import pytest
import torch

from tests.support.compare import distance
from tests.support.specification import stock_error

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.usefixtures("poisoned_memory")
def test_triton_agrees_with_the_specification(any_shape, any_plan, make_call, disagreement):
    call = make_call(any_shape, any_plan).to(torch.device("cuda"))
    assert disagreement(call, *call.run("triton")) == ""
    assert disagreement(call, *call.run("torch")) == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_stock_attention(any_shape, dtype, make_call, disagreement):
    call = make_call(any_shape, "redistribution").to(dtype)
    allowed, blinded = (2 * stock_error(call, blinded) + 1e-4 for blinded in (False, True))
    on_gpu = call.to(torch.device("cuda"))
    assert disagreement(on_gpu, *on_gpu.run("triton"), tolerance=allowed, mass=1e-5, blinded=blinded) == ""


def test_decode_waits_for_nothing_and_fits_in_a_graph(make_call):
    call = make_call("decode-128-split", "redistribution").to(torch.device("cuda"))
    eager, _ = call.run("triton", want=())
    torch.cuda.set_sync_debug_mode("error")
    try:
        call.run("triton", want=())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed, _ = call.run("triton", want=())
    replayed.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert distance(replayed, eager) < 1e-5
