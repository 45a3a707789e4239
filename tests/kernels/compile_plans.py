"""Put every plan of the tests through Triton's front end, for a GPU that is not here, and print what was seen.

Which operands are None decides which lines of a kernel are compiled, so that every such choice is its own program. The
front end finds what Python's types hide and the interpreter does not: a name that changes its shape in a loop, say.
Nothing is optimised or assembled, which takes far longer; `compile_ahead.py` does that for some cases.
Run as a module, in a process of its own: the kernels must not be interpreted here.
"""

from __future__ import annotations

import itertools
import json
import sys
from types import SimpleNamespace

import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from vlm_kernels import triton_backend
from vlm_kernels.triton_decode import decode_kernel
from vlm_kernels.triton_tail import tail_kernel

from tests.kernels.compile_ahead import AbsentDevice
from tests.support.attention_calls import PLAN_NAMES, WANT, call_of

CAPABILITY = 90
CALLED = (  # without a mask, with a bool one, with one added to the logits, and keys that are split over blocks
    "decode", "decode-padded", "decode-float-mask", "decode-128-split",
    "prefill", "prefill-padded", "prefill-float-mask",
)  # fmt: skip
LAUNCHED = SimpleNamespace(  # what a kernel's launch asks of a compiled one
    function=None, packed_metadata=None, launch_metadata=lambda *_: None, run=lambda *_: None
)


class FrontEnd:
    """Stands where a kernel compiles; takes each choice of operands once as far as Triton's own intermediate code."""

    def __init__(self) -> None:
        self.programs: dict[tuple[object, ...], int] = {}

    def __call__(self, source, target: GPUTarget, options: dict[str, object]) -> SimpleNamespace:
        absent = tuple(place for place, value in source.constants.items() if value is None)
        pointers = tuple((name, kind) for name, kind in source.signature.items() if kind.startswith("*"))
        chosen = (source.fn.__name__, absent, pointers, source.constants.get((source.fn.arg_names.index("STRICT"),)))
        if chosen not in self.programs:
            self.programs[chosen] = self.lowered(source, target, options)
        return LAUNCHED

    def lowered(self, source, target: GPUTarget, options: dict[str, object]) -> int:
        """Return how many characters the program has."""
        backend = make_backend(target)
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        parsed = backend.parse_options(dict(options))
        module = source.make_ir(
            target, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context
        )
        return len(str(module))


def main() -> None:
    """Print one JSON object: how many programs each kernel has, and the plans that failed with Triton's words."""
    triton.runtime.driver.set_active(AbsentDevice(CAPABILITY))
    triton_backend.refusal = lambda *_: None
    front_end = FrontEnd()
    for kernel in (decode_kernel, tail_kernel):
        _ = kernel.device_caches[CAPABILITY]  # made on first use, which also sets what compiles
        kernel.compile = front_end
    failed = {}
    for shape, plan, want in itertools.product(CALLED, PLAN_NAMES, ((), WANT)):
        try:
            call_of(shape, plan).run("triton", want=want)
        except triton.CompilationError as error:
            failed[f"{shape}, {plan}, {'everything' if want else 'nothing'} wanted"] = str(error.__cause__ or error)
    names = [name for name, *_ in front_end.programs]
    json.dump({"programs": {name: names.count(name) for name in set(names)}, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main()
