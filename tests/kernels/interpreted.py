"""The Triton kernels under the interpreter; run by `test_triton_interpreted.py` in a process with TRITON_INTERPRET=1.

Half precision means float16 here: the interpreter multiplies bfloat16 as raw bits.
"""

import importlib.util
import inspect
import sys

import pytest
import torch
from vlm_kernels import Aux, triton_backend, triton_decode
from vlm_kernels.triton_edit import Edit

CASES = (
    ("decode", "redistribution"),
    ("decode-80-group-4", "everything"),
    ("decode-96-group-7", "redistribution-picked"),
    ("decode-128-split", "everything"),
    ("decode-128-split", "eight-classes"),
    ("decode-256", "redistribution-strict"),
    ("decode-padded", "class-gain"),
    ("decode-padding-by-class-only", "boost"),
    ("decode-static-cache", "redistribution"),
    ("decode-float-mask", "shared-boost"),
    ("decode-all-masked", "everything"),
    ("decode-one-key", "redistribution"),
    ("decode-80-group-4", "factor"),
    ("decode-128-split", "factor-and-boost"),
    ("prefill-padded", "factor"),
    ("prefill-continued", "factor-and-boost"),
    ("decode-80-group-4", "key-weight"),
    ("decode-128-split", "counted"),
    ("decode-padded", "value-gain"),
    ("decode-all-masked", "empty-key"),
    ("prefill-padded", "empty-key"),
    ("prefill-continued", "counted"),
    ("prefill", "key-weight"),
    ("prefill-float-mask", "value-gain"),
    ("all-sinks", "redistribution"),
    ("no-image", "everything"),
    ("prefill", "everything"),
    ("prefill-80", "redistribution-picked"),
    ("prefill-128-group-7", "redistribution-strict"),
    ("prefill-padded", "class-gain"),
    ("prefill-continued", "everything"),
    ("prefill-sliding", "shared-boost"),
    ("prefill-static-cache", "boost"),
    ("prefill-float-mask", "eight-classes"),
)

pytestmark = [
    pytest.mark.skipif(not triton_backend.INTERPRETED, reason="needs TRITON_INTERPRET=1"),
    pytest.mark.filterwarnings(
        "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
    ),  # the interpreter's own
]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("shape", "plan"), CASES)
def test_triton_agrees_with_the_specification(shape, plan, make_call, disagreement):
    call = make_call(shape, plan)
    assert disagreement(call, *call.run("triton")) == ""


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    ("shape", "plan"), [("prefill", "redistribution-picked"), ("decode-96-group-7", "redistribution")]
)
def test_rows_that_nobody_asked_about_are_right_too(shape, plan, make_call, disagreement):
    call = make_call(shape, plan)
    assert disagreement(call, *call.run("triton", want=())) == ""
    assert disagreement(call, *call.run("triton", want=("moved",))) == ""


@pytest.mark.parametrize("shape", ["decode-96-group-7", "prefill"])
def test_float16_agrees_as_well_as_float16_can(shape, make_call, disagreement):
    call = make_call(shape, "redistribution").to(torch.float16)
    assert disagreement(call, *call.run("triton"), tolerance=2e-3, mass=2e-6) == ""


def test_counters_of_arrival_are_left_at_zero(make_call, disagreement):
    call = make_call("decode-128-split", "redistribution")
    for _ in range(2):
        assert disagreement(call, *call.run("triton")) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("acc = acc * rescale[:, None] + tl.dot", "acc = acc + tl.dot"),
        ("acc = acc * mine[:, None] + other_acc", "acc = acc + other_acc"),
        ("row_class = row % CLASS_SLOTS", "row_class = (row + 1) % CLASS_SLOTS"),
    ],
)
def test_a_wrong_kernel_is_caught(right, wrong, tmp_path, monkeypatch, make_call, disagreement):
    """A missing rescale in the loop or in the joining of splits, and classes off by one."""
    source = inspect.getsource(triton_decode)
    assert source.count(right) == 1
    name = f"wrong_{abs(hash(wrong))}"
    path = tmp_path / f"{name}.py"
    path.write_text(source.replace(right, wrong).replace("vlm_kernels::decode", f"vlm_kernels::{name}"))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(triton_backend.triton_decode, "decode", module.decode)
    call = make_call("decode-128-split", "redistribution")
    assert "is off by" in disagreement(call, *call.run("triton"))


def edit_of(call):
    """The call as the operators take it, reporting masses and what was moved."""
    return Edit.from_plan(call.plan, call.key_class, call.mask, call.query.shape[-1] ** -0.5, ("mass", "moved"))


def test_the_operators_are_registered_as_torch_asks(make_call):
    """Schema, fake tensors and aliasing are what `torch.compile` and CUDA graphs rely on."""
    call = make_call("decode", "redistribution")
    states = (call.query, call.key, call.value)
    decode = triton_decode.decode_operator
    torch.library.opcheck(decode, (*states, *edit_of(call)), test_utils=("test_schema", "test_faketensor"))
    call = make_call("prefill", "redistribution")
    states = (torch.zeros_like(call.query), 0, call.query, call.key, call.value)
    tail = triton_backend.triton_tail.tail_operator
    torch.library.opcheck(tail, (*states, *edit_of(call)), test_utils=("test_schema", "test_faketensor"))


def test_an_operators_arguments_are_the_fields_of_an_edit():
    for operator in (torch.ops.vlm_kernels.decode, torch.ops.vlm_kernels.tail):
        names = [argument.name for argument in operator.default._schema.arguments]
        assert tuple(names[-len(Edit._fields) - 3 :]) == ("query", "key", "value", *Edit._fields)


@pytest.mark.parametrize("shape", ["decode-128-split", "prefill"])
def test_a_compiled_graph_holds_the_operators(shape, make_call, disagreement):
    """Without a break: `fullgraph` raises on one. The graph is run as it was captured, by the interpreter."""
    call = make_call(shape, "redistribution")
    held = []

    def keep(graph, _):
        held.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def edited(query, key, value):
        edit = edit_of(call)
        if query.shape[2] == 1:
            output, mass, _, moved = triton_decode.decode(query, key, value, edit)
        else:
            output = torch.zeros_like(query)
            mass, _, moved = triton_backend.triton_tail.tail(output, 0, query, key, value, edit)
        return output, mass, moved

    output, mass, moved = torch.compile(edited, fullgraph=True, backend=keep)(call.query, call.key, call.value)
    assert any("vlm_kernels" in target for target in held)
    assert disagreement(call, output, Aux(mass=mass, moved=moved)) == ""
