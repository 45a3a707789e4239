"""The benchmark: every way it times gives the same numbers, and a wrong one gets no ratio."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from vlm_kernels import AttentionPlan, bench
from vlm_kernels.bench import ModelShape, measure, summary
from vlm_kernels.materialised import flex_attention_twice, materialised_attention

TINY = ModelShape("tiny", heads=4, kv_heads=2, size=16, image_keys=20, keys=48)
PROGRAM = Path(__file__).parents[2] / "kernels" / "bench.py"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_way_is_timed_beside_stock_attention(dtype):
    rows = list(measure([TINY], dtype=dtype, seconds=0.01))
    ways = {(phase, way) for phase in ("decode", "prefill") for way in ("stock", "edited", "head gain", "materialised")}
    assert {(row.phase, row.way) for row in rows} == ways | {("decode", "prepared")}
    assert not any(row.wrong for row in rows)
    assert all(row.ratio == 1.0 for row in rows if row.way == "stock")
    assert all(row.ms > 0 and row.ratio > 0 and row.floor_share > 0 for row in rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_way_gets_no_figures(dtype, monkeypatch):
    def forgetful(query, key, value, plan, key_class):
        return materialised_attention(query, key, value, replace(plan, redistribution=None), key_class)

    monkeypatch.setattr(bench, "materialised_attention", forgetful)
    rows = {row.way: row for row in measure([TINY], dtype=dtype, seconds=0.01, phases=("decode",))}
    assert rows["materialised"].ratio is None
    assert rows["materialised"].ms is None
    assert rows["edited"].ratio is not None
    assert "| wrong: off by" in summary(rows.values())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("shape", ["decode", "prefill"])
def test_the_other_ways_agree_with_the_specification(shape, make_call, disagreement):
    call = make_call(shape, "redistribution")
    plan = AttentionPlan(redistribution=call.plan.redistribution)
    states = (call.query, call.key, call.value)
    _, aux = call.run("torch", want=())
    assert disagreement(call, materialised_attention(*states, plan, call.key_class), aux) == ""
    assert disagreement(call, flex_attention_twice(*states, plan, call.key_class), aux, tolerance=1e-5) == ""


def test_threads_are_given_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        list(measure([TINY], seconds=0.01, phases=("decode",)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_program_prints_rows_as_data():
    command = [sys.executable, str(PROGRAM), "--device", "cpu", "--shape", "mini", "--seconds", "0.01", "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in finished.stdout.splitlines()]
    assert {row["shape"] for row in rows} == {"mini"}
    assert not any(row["wrong"] for row in rows)


def test_importing_the_program_runs_nothing(capsys):
    assert "main" in runpy.run_path(str(PROGRAM), run_name="imported")
    assert capsys.readouterr().out == ""
