"""A timed run on a GPU, played on a CPU with tiny sizes: everything is run, timed out, or named as not run."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from vlm_app.cli import main
from vlm_app.speed import session, timing
from vlm_app.speed.session import Session, run_tests, session_page
from vlm_kernels.bench import ModelShape

from vlm_heads import Mitigation, known_interventions


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setitem(timing.CONFIGS, "tiny", timing.Size(layers=2, width=32, heads=2, mlp=48, key_heads=1))
    monkeypatch.setattr(session, "BATCHES", (1, 2))
    return Session(
        torch.device("cpu"),
        seconds=600,
        methods=lambda vlm: {"vhr": Mitigation((known_interventions()["vhr"](),))},
        config="tiny",
        dtype=torch.float32,
        tokens=2,
        rounds=2,
        shapes=[ModelShape("one", 2, 2, 16, 8, 24)],
        kernel_seconds=0.01,
        tests=(sys.executable, "-c", "print('== 2 passed in 0.1s ==')"),
    )


def test_a_session_measures_everything(tiny: Session) -> None:
    told: list[str] = []
    found = tiny.run(told.append)
    assert told == ["the tests that need the device", "generation, batch 1", "generation, batch 2", "attention, one"]
    assert found["tests"] == {"status": 0, "said": "2 passed in 0.1s"}
    assert set(found["generate"]) == {"1", "2"}
    assert {"plain", "eager", "vhr"} <= set(found["generate"]["2"])
    assert {row["phase"] for row in found["kernels"]} == {"decode", "prefill"}
    assert not any(row["wrong"] for row in found["kernels"])
    page = session_page(found)
    assert "Tests that need the device: 2 passed in 0.1s." in page
    assert "| 2 | vhr | " in page
    assert "| one | decode | edited | " in page


def test_what_no_time_is_left_for_is_named(tiny: Session) -> None:
    found = replace(tiny, seconds=1.0).run(lambda _: None)
    assert found["tests"]["status"] == 0
    assert found["not_run"] == ["generation, batch 1", "generation, batch 2", "attention, one"]
    assert "No time was left for: generation, batch 1, generation, batch 2, attention, one." in session_page(found)


def test_tests_that_hang_are_cut_off() -> None:
    said = run_tests((sys.executable, "-c", "import time; time.sleep(60)"), seconds=0.5)
    assert said == {"status": None, "said": "cut off after 0 s"}


def test_without_the_tests_folder_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "start in a checkout" in run_tests(("false",), seconds=1)["said"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no CUDA device")
def test_the_command_asks_for_the_device_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "gpu"])
    assert stopped.value.code == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_a_page_without_a_place_for_the_tables_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing to fill in")
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "gpu", "--write", str(page)])
    assert stopped.value.code == 2
    assert "has no block to fill in" in capsys.readouterr().err
    assert page.read_text() == "nothing to fill in"
