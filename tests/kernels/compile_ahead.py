"""Compile both kernels for GPUs that are not here and print, as JSON lines, what ptxas says of each.

Run as a program, in a process of its own: the kernels must not be interpreted here. `--all` adds the shapes that are
not worth every run of the tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vlm_kernels.triton_decode import DecodeShape, decode_kernel
from vlm_kernels.triton_tail import TailShape, tail_kernel

TRITON_TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
STATES = ("query", "key", "value", "output", "blinded_out")
BYTES = ("mask", "rule_heads")
LONGS = ("rule_rows", "plan_rows")
FLOAT_ARGUMENTS = ("scale", "moved", "max_sink_share", "min_image_mass")
COUNTS = ("heads", "kv_heads", "keys", "span", "first", "rows", "mass_classes", "gain_classes")
VAR_AND_VHR = {"MOVES": True, "HAS_CLASSES": True, "HAS_HEAD_GAIN": True}
EVERYTHING = VAR_AND_VHR | {
    "MASK": 1, "HAS_BOOST": True, "HAS_FACTOR": True, "HAS_EXTRA": True, "HAS_CLASS_GAIN": True, "HAS_RULE_HEADS": True,
    "HAS_RULE_ROWS": True, "HAS_PLAN_ROWS": True, "WANT_MASS": True, "WANT_BLINDED": True, "WANT_MOVED": True,
}  # fmt: skip


def decode_constants(size: int, group: int, dtype: torch.dtype, flags: dict[str, object]) -> tuple[dict, DecodeShape]:
    shape = DecodeShape.of(size, group, dtype, rich=flags == EVERYTHING)
    sizes = {"PADDED": shape.padded, "HEADS": shape.heads, "BLOCK": shape.block, "GROUP": group, "SPLIT": True}
    return {"SIZE": size} | sizes | flags, shape


def tail_constants(size: int, group: int, dtype: torch.dtype, flags: dict[str, object]) -> tuple[dict, TailShape]:
    shape = TailShape.of(size, 64 * group, dtype)
    sizes = {"PADDED": shape.padded, "ROWS": shape.rows, "BLOCK": shape.block, "GROUP": group}
    return {"SIZE": size} | sizes | flags, shape


def signature_of(kernel, dtype: torch.dtype, constants: dict[str, object]) -> tuple[dict, dict, dict]:
    """Return types, constants and 16-divisibility hints as a launch on dense tensors would have them."""
    types, values, hints = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        name = parameter.name
        if parameter.is_constexpr:
            types[name], values[(place,)] = "constexpr", constants.get(name, False)
        elif name in FLOAT_ARGUMENTS:
            types[name] = "fp32"
        elif name in COUNTS or name.rsplit("_", 1)[-1] in ("batch", "head", "row"):
            types[name] = "i32"
            if name.split("_")[0] in ("query", "key", "value"):
                hints[(place,)] = [["tt.divisibility", 16]]
        else:
            kind = TRITON_TYPES[dtype] if name in STATES else "fp32"
            kind = {"key_class": "i8", "arrivals": "i32"}.get(name, kind)
            kind = "u8" if name in BYTES else "i64" if name in LONGS else kind
            types[name] = f"*{kind}"
            hints[(place,)] = [["tt.divisibility", 16]]
    return types, values, hints


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


def compiled(kernel, constants, shape, dtype: torch.dtype, capability: int) -> dict[str, object]:
    types, values, hints = signature_of(kernel, dtype, constants)
    source = ASTSource(kernel, types, values, hints)
    options = {"num_warps": shape.warps, "num_stages": shape.stages}
    if kernel is decode_kernel:
        options["maxnreg"] = shape.registers
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = binary.asm["ptx"]
    return {
        "target": re.search(r"\.target (\w+)", ptx).group(1),
        "cubin_bytes": len(binary.asm["cubin"]),
        "shared_bytes": binary.metadata.shared,
        "tensor_cores": "mma" in ptx,
        **registers_and_spills(ptx, capability),
    }


HALF = torch.bfloat16
CHECKED = (  # kernel, head size, group, dtype, flags, capabilities
    ("decode", 128, 1, HALF, VAR_AND_VHR, (80, 90)),
    ("decode", 128, 7, HALF, EVERYTHING, (80, 90)),
    ("decode", 80, 4, torch.float16, VAR_AND_VHR, (80,)),
    ("decode", 256, 2, HALF, VAR_AND_VHR, (90,)),
    ("decode", 64, 4, torch.float32, VAR_AND_VHR, (90,)),
    ("decode", 128, 4, torch.float32, EVERYTHING, (90,)),
    ("decode", 256, 2, torch.float32, EVERYTHING, (80, 90)),
    ("tail", 128, 1, HALF, VAR_AND_VHR, (80, 90)),
)
OTHERS = (
    *(("decode", size, 4, torch.float16, VAR_AND_VHR, (80, 90)) for size in (64, 96, 256)),
    *(("decode", size, group, HALF, EVERYTHING, (80, 90)) for size, group in ((80, 8), (128, 1), (128, 4), (256, 2))),
    ("decode", 128, 7, HALF, VAR_AND_VHR, (80, 90)),
    ("decode", 64, 4, torch.float32, EVERYTHING, (80, 90)),
    ("decode", 128, 4, torch.float32, EVERYTHING, (80,)),
    ("decode", 128, 4, torch.float32, VAR_AND_VHR, (80, 90)),
    ("decode", 256, 2, torch.float32, VAR_AND_VHR, (80, 90)),
    ("tail", 128, 7, HALF, EVERYTHING, (80, 90)),
    ("tail", 128, 16, HALF, VAR_AND_VHR, (80, 90)),
    ("tail", 256, 2, torch.float16, VAR_AND_VHR, (80, 90)),
    ("tail", 128, 1, torch.float32, VAR_AND_VHR, (80, 90)),
)


def main() -> None:
    for name, size, group, dtype, flags, capabilities in CHECKED + (OTHERS if "--all" in sys.argv else ()):
        kernel, constants_of = (decode_kernel, decode_constants) if name == "decode" else (tail_kernel, tail_constants)
        constants, shape = constants_of(size, group, dtype, flags)
        for capability in capabilities:
            found = compiled(kernel, constants, shape, dtype, capability)
            case = {"kernel": name, "size": size, "group": group, "dtype": TRITON_TYPES[dtype], "flags": len(flags)}
            print(json.dumps(case | {"capability": capability} | found), flush=True)


if __name__ == "__main__":
    main()
