"""Compile the kernels for GPUs without having one: they are real GPU code and keep their registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from vlm_kernels.triton_decode import MOST_REGISTERS

ROOT = Path(__file__).parents[2]


def compiled(program, folder):
    """Compile in a process of its own, into an empty cache."""
    environment = os.environ | {
        "TRITON_CACHE_DIR": str(folder),
        "TRITON_INTERPRET": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
    }
    command = [sys.executable, "-m", f"tests.kernels.{program}"]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines()]


@pytest.mark.slow
def test_the_kernels_compile_for_both_generations_without_spills(tmp_path):
    cases = compiled("compile_ahead", tmp_path)
    assert {(case["kernel"], case["capability"]) for case in cases} == {
        (kernel, capability) for kernel in ("decode", "tail") for capability in (80, 90)
    }
    for case in cases:
        print(case)
        assert case["target"].startswith(f"sm_{case['capability']}")
        assert case["cubin_bytes"] > 10_000
        assert case["tensor_cores"] == (case["dtype"] != "fp32")
        assert case["spilled_bytes"] == 0, case
        assert case["registers"] <= MOST_REGISTERS, case
        assert case["shared_bytes"] <= 160 * 1024, case


@pytest.mark.slow
def test_every_plan_passes_triton_s_front_end_in_decode_and_in_prefill(tmp_path):
    """Seventeen seconds of one core for about two hundred choices of what a kernel is given."""
    [found] = compiled("compile_plans", tmp_path)
    assert found["failed"] == {}
    assert found["programs"]["decode_kernel"] > 100
    assert found["programs"]["tail_kernel"] > 80
