"""docs/findings.md: what the program writes from what was measured, and nothing else."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlm_app.studies.findings.page import page_text, write_page

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "findings.md"
KEPT = sorted((ROOT / "docs" / "findings").glob("*.json"))


@pytest.fixture
def mini() -> dict[str, Any]:
    """What was measured of the shipped model."""
    found: dict[str, Any] = json.loads((ROOT / "docs" / "findings" / "mini.json").read_text("utf-8"))
    return found


def test_the_page_is_what_the_program_writes() -> None:
    written = page_text([json.loads(path.read_text("utf-8")) for path in KEPT])
    assert PAGE.read_text("utf-8") == written, "write it anew: vlm-heads study findings-page docs/findings.md"


def test_every_picture_of_the_page_is_there() -> None:
    pictures = [
        line.partition("](")[2].rstrip(")") for line in PAGE.read_text("utf-8").splitlines() if line[:2] == "!["
    ]
    assert len(pictures) == 3 * len(KEPT)
    for name in pictures:
        with Image.open(PAGE.parent / name) as picture:
            assert min(picture.size) > 300


def test_runs_are_kept_and_drawn(mini: dict[str, Any], tmp_path: Path) -> None:
    run, page = tmp_path / "run", tmp_path / "docs" / "page.md"
    run.mkdir()
    (run / "findings.json").write_text(json.dumps(mini))
    written = write_page(page, [run])
    assert written[0] == page
    assert len(written) == 4
    assert page.read_text("utf-8") == page_text([mini])
    assert write_page(page)[0].read_text("utf-8") == page_text([mini])  # from what is kept alone


def test_sentences_follow_the_numbers(mini: dict[str, Any]) -> None:
    other = copy.deepcopy(mini)
    other["auc"]["difference"] = {"auc": 0.1, "low": 0.05, "high": 0.2}
    assert "T-VHD tells them apart better than" in page_text([other])
    other["auc"]["difference"] = {"auc": 0.1, "low": -0.05, "high": 0.2}
    assert "better cannot be said" in page_text([other])
    other["criterion"] = {"kind": "median", "channels": [5], "factor": 10}
    for row in other["sinks"][2:5]:
        row["marked"] = {"text": 2.0, "image": 0.0, "tokens": {"the first": 1.0, "\n": 1.0}, "positions": []}
    other["var"] = "var:criterion=median,sinks=any"
    said = page_text([other])
    assert "By `criterion=median` it has sinks in channel 5, on 3 of 8 layers." in said
    assert r"in how many layers: the first in 3, `'\n'` in 3. No image position is one in any layer. VAR acts" in said
    assert "`--with var:criterion=median,sinks=any`" in said
    other["position_sinks"] = [{"position": 48, "layers": [1, 2], "proposed": True}]
    assert "Proposed: `position_sinks=48`." in page_text([other])
    other["stability"]["trainings"] = [{"model": "other", "all": 0.5, "within_layers": None}]
    assert "| `other` | 0.50 | – |" in page_text([other])
