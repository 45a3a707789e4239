"""A mitigation that was tuned on one model and is used with another: it acts, and one line says so."""

import json
from pathlib import Path

import pytest
from vlm_app.models import say_tuned_elsewhere
from vlm_evals.answer import fingerprint

from tests.support.command import Command
from vlm_heads import VLM, Mitigation


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    Mitigation.parse("vhr").save_pretrained(tmp_path / "kept")
    return tmp_path / "kept"


def test_other_weights_are_told_in_one_line(kept: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (kept / "evidence.json").write_text(json.dumps({"model": "mini", "weights": "0"}))
    told = command("describe", "sample:kitchen", "--model", "planted", "--with", kept, "--max-tokens", 2)
    assert told.code == 0
    assert told.err.count("was tuned on mini, and this is planted with other weights") == 1
    vlm = VLM.from_pretrained("planted")
    (kept / "evidence.json").write_text(json.dumps({"model": "p", "weights": fingerprint(vlm.model)}))
    say_tuned_elsewhere([str(kept), "vhr"], vlm)
    assert capsys.readouterr().err == ""
    (kept / "evidence.json").write_text("[]")
    say_tuned_elsewhere([str(kept)], vlm)
    assert "cannot be read" in capsys.readouterr().err
