"""Launch both kernels on a GPU that is not here and print, as JSON lines, what ptxas says of each.

A driver without a device takes the GPU's place: a call goes the whole way that it goes on one, up to the machine code,
and nothing runs. Run as a program, in a process of its own: the kernels must not be interpreted here. `--all` adds the
shapes that are not worth every run of the tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from vlm_kernels import AttentionPlan, Redistribution, triton_backend
from vlm_kernels.triton_decode import decode_kernel
from vlm_kernels.triton_tail import tail_kernel

KV_HEADS, DECODE_KEYS, TAIL_ROWS = 2, 512, 64
TRITON_TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
HALF, SINGLE = torch.bfloat16, torch.float32


class AbsentDevice:
    """A driver for a GPU of one capability, whose device number is that capability; it loads and runs nothing."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: {"max_shared_mem": 227 * 1024},
            load_binary=lambda *_: (object(), object(), 0, 0, 1024),
        )

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, _):
        return 0

    def launcher_cls(self, *_):
        return lambda *_: None


def plan_of(name: str, heads: int, keys: int) -> AttentionPlan:
    """Return a plan over one batch row."""
    gain, boost = torch.ones(1, heads), torch.ones(1, heads, keys)
    first = torch.zeros(1, dtype=torch.int64)
    if name == "boost":
        return AttentionPlan(logit_boost=boost)
    if name == "var and vhr":
        return AttentionPlan(head_gain=gain, redistribution=Redistribution())
    alone = {"key weight": "key_weight", "value gain": "value_gain", "empty key": "empty_key"}
    if name in alone:
        return AttentionPlan(rows=first, **{alone[name]: boost if name != "empty key" else torch.ones(1, heads, 1)})
    if name == "counted":
        counted = {"key_weight": boost, "value_gain": boost, "empty_key": torch.ones(1, heads, 1)}
        return AttentionPlan(class_gain=torch.ones(1, heads, 5), redistribution=Redistribution(), **counted)
    picked = Redistribution(heads=torch.ones(1, heads, dtype=torch.bool), rows=first, share_epsilon=1e-6)
    return AttentionPlan(
        head_gain=gain,
        class_gain=torch.ones(1, heads, 5),
        redistribution=picked,
        logit_boost=boost,
        rows=first,
        logit_factor=boost,
    )


def launch(kernel: str, size: int, group: int, dtype: torch.dtype, name: str) -> None:
    """Make one call as a model would, on memory of the CPU."""
    rows, keys = (1, DECODE_KEYS) if kernel == "decode" else (TAIL_ROWS, TAIL_ROWS)
    heads = KV_HEADS * group
    states = [torch.zeros(1, count, length, size, dtype=dtype) for count, length in ((heads, rows), (KV_HEADS, keys))]
    mask = {
        "everything": torch.ones(1, 1, rows, keys, dtype=torch.bool),
        "key weight": torch.ones(1, 1, rows, keys, dtype=torch.bool),
        "value gain": torch.ones(1, 1, rows, keys, dtype=torch.bool),
        "boost": torch.zeros(1, 1, rows, keys, dtype=dtype),
    }.get(name)
    triton_backend.attend(
        *states,
        states[1],
        plan=plan_of(name, heads, keys),
        key_class=None if name == "boost" else torch.full((1, keys), 3, dtype=torch.int8),
        mask=mask,
        want=("mass", "blinded", "moved") if name == "everything" else (),
    )


def registers_and_spills(ptx: str, capability: int) -> dict[str, int]:
    """Assemble once more with `ptxas -v` and read its account."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        architecture = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
        assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
        report = subprocess.run(
            [assembler, "-v", f"-arch={architecture}", str(source), "-o", str(source) + ".cubin"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    spilled = [int(number) for number in re.findall(r"(\d+) bytes spill", report)]
    return {"registers": int(re.findall(r"Used (\d+) registers", report)[-1]), "spilled_bytes": sum(spilled)}


def compiled(kernel: str, size: int, group: int, dtype: torch.dtype, name: str, capability: int) -> dict[str, object]:
    triton.runtime.driver.set_active(AbsentDevice(capability))
    function = decode_kernel if kernel == "decode" else tail_kernel
    function.device_caches.clear()
    launch(kernel, size, group, dtype, name)
    [binary] = function.device_caches[capability][0].values()
    ptx = binary.asm["ptx"]
    return {
        "target": re.search(r"\.target (\w+)", ptx).group(1),
        "cubin_bytes": len(binary.asm["cubin"]),
        "shared_bytes": binary.metadata.shared,
        "tensor_cores": "mma" in ptx,
        **registers_and_spills(ptx, capability),
    }


CHECKED = (  # kernel, head size, group, dtype, plan, capabilities
    ("decode", 128, 1, HALF, "var and vhr", (80, 90)),
    ("decode", 128, 7, HALF, "everything", (80, 90)),
    ("decode", 80, 4, torch.float16, "var and vhr", (80,)),
    ("decode", 256, 2, HALF, "var and vhr", (90,)),
    ("decode", 64, 4, SINGLE, "var and vhr", (90,)),
    ("decode", 128, 4, SINGLE, "everything", (90,)),
    ("decode", 256, 2, SINGLE, "everything", (80, 90)),
    ("decode", 128, 4, HALF, "boost", (90,)),
    ("decode", 128, 7, HALF, "key weight", (80, 90)),
    ("decode", 128, 7, HALF, "value gain", (80, 90)),
    ("tail", 128, 4, HALF, "empty key", (80, 90)),
    ("tail", 128, 4, HALF, "counted", (80,)),  # on sm_90 it keeps two numbers a thread in memory
    ("decode", 128, 7, HALF, "counted", (90,)),
    ("tail", 128, 1, HALF, "var and vhr", (80, 90)),
)
OTHERS = (
    *(
        (kernel, size, group, dtype, name, (80, 90))
        for name in ("key weight", "value gain", "empty key", "counted")
        for kernel, size, group, dtype in (
            ("decode", 128, 1, HALF),
            ("decode", 256, 2, HALF),
            ("decode", 128, 2, SINGLE),
            ("tail", 256, 2, HALF),
        )
    ),
    *(("decode", size, 4, torch.float16, "var and vhr", (80, 90)) for size in (64, 96, 256)),
    *(("decode", size, group, HALF, "everything", (80, 90)) for size, group in ((80, 8), (128, 1), (128, 4), (256, 2))),
    ("decode", 128, 7, HALF, "var and vhr", (80, 90)),
    ("decode", 64, 4, SINGLE, "everything", (80, 90)),
    ("decode", 128, 4, SINGLE, "everything", (80,)),
    ("decode", 128, 4, SINGLE, "var and vhr", (80, 90)),
    ("decode", 256, 2, SINGLE, "var and vhr", (80, 90)),
    ("tail", 128, 7, HALF, "everything", (80, 90)),
    ("tail", 128, 4, HALF, "boost", (80, 90)),
    ("tail", 128, 16, HALF, "var and vhr", (80, 90)),
    ("tail", 256, 2, torch.float16, "var and vhr", (80, 90)),
    ("tail", 128, 1, SINGLE, "var and vhr", (80, 90)),
)


def main() -> None:
    for *case, capabilities in CHECKED + (OTHERS if "--all" in sys.argv else ()):
        kernel, size, group, dtype, name = case
        for capability in capabilities:
            found = compiled(kernel, size, group, dtype, name, capability)
            said = {"kernel": kernel, "size": size, "group": group, "dtype": TRITON_TYPES[dtype], "plan": name}
            print(json.dumps(said | {"capability": capability} | found), flush=True)


if __name__ == "__main__":
    main()
