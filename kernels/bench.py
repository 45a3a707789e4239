"""Time attention with edits here: `python kernels/bench.py [--device cuda] [--dtype bfloat16] [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

import torch
from vlm_kernels.bench import SHAPES, measure, summary


def main() -> int:
    """Print the table, or one JSON object a line; return 1 where any way was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default=None, choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--seconds", type=float, default=4.0, help="time spent on each shape and phase")
    parser.add_argument("--shape", action="append", help="part of a shape's name; may be repeated")
    parser.add_argument("--phase", action="append", choices=["decode", "prefill"], help="may be repeated; both if not")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype or ("bfloat16" if options.device.startswith("cuda") else "float32"))
    shapes = [shape for shape in SHAPES if not options.shape or any(part in shape.name for part in options.shape)]
    timings = []
    phases = tuple(options.phase or ("decode", "prefill"))
    for timing in measure(shapes, device=options.device, dtype=dtype, seconds=options.seconds, phases=phases):
        timings.append(timing)
        print(f"{timing.shape}, {timing.phase}, {timing.way}", file=sys.stderr)
    print("\n".join(json.dumps(asdict(row)) for row in timings) if options.json else summary(timings))
    return int(any(row.wrong for row in timings))


if __name__ == "__main__":
    sys.exit(main())
