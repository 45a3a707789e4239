"""RouteGain on the heads that scorers choose: whose heads act, who can tell nothing, and the table."""

from pathlib import Path
from typing import Any

import pytest
from vlm_app.studies.route.by_scorer import Sizes, heads_table, measure_scorers, write_heads_block
from vlm_evals.runs import answers_in

from vlm_heads import HeadProfile, RouteGain
from vlm_heads.errors import BadOption

ROUTE = RouteGain(image=1.5, layers="all")
SIZES = Sizes(captions=4, samples=2, batch=4)


def measured(out: Path, *scorers: str) -> dict[str, Any]:
    found = measure_scorers(out, model="mini", scorers=scorers, route=ROUTE, sizes=SIZES, seed=7, device="cpu")
    assert found is not None
    return found


def test_each_scorer_acts_on_the_heads_above_its_own_median(tmp_path: Path) -> None:
    found = measured(tmp_path, "image-mass", "logits", "copy")
    assert set(found["rows"]) == {"all", "random", "by image-mass", "by logits"}
    assert "copy" in found["unfit"]["copy"]  # the model would not say its words: a reason, and the others go on
    for name in ("image-mass", "logits"):
        scores = HeadProfile.from_pretrained(tmp_path / "profiles" / name).scores
        above = {layer: (row > row.sort().values[3]).tolist() for layer, row in enumerate(scores)}
        answer = next(iter(answers_in(tmp_path / "chair" / f"by {name}").values()))
        layers = answer.receipt["interventions"][0]["heads"]
        assert {int(layer): [bool(one) for one in counts] for layer, counts in layers.items()} == above
    kept = (tmp_path / "chair" / "by logits" / "answers.jsonl").read_bytes()
    assert measured(tmp_path, "image-mass", "logits", "copy") == found
    assert (tmp_path / "chair" / "by logits" / "answers.jsonl").read_bytes() == kept


def test_an_unknown_scorer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="vhd"):
        measured(tmp_path, "vdh")


def row(estimate: float | None) -> dict[str, Any]:
    off = {"estimate": estimate, "low": -0.2, "high": 0.1}
    figures = {"chair_s": 0.25, "recall": 0.8, "repeated_mentions": 0.05}
    return figures | {"curve_difference": {"chair_s": off, "chair_i_distinct": off}}


def test_the_table_has_the_lowest_first_and_says_who_cannot_tell(tmp_path: Path) -> None:
    about = {"model": "made", "weights": "0", "setting": "route", "samples": 2, "scenes": 4, "split": "validation"}
    rows = {"all": row(None), "by vhd": row(0.01), "by logits": row(-0.03)}
    found = {"about": about, "plain": row(0.0), "rows": rows, "unfit": {"copy": "says nothing"}}
    lines = heads_table(found).splitlines()
    assert lines[2].startswith("| none: plain | 0 | 0 | 25.0 | 80.0 | 5.0 |")
    assert [line.split(" | ")[0] for line in lines[3:]] == ["| by logits", "| by vhd", "| all", "| by copy"]
    assert "| -3.0 [-20.0, 10.0] |" in lines[3]
    assert "off the curve" in lines[5]
    assert "n/a: says nothing" in lines[6]
    page = tmp_path / "page.md"
    marks = "<!-- route-heads-made: {} -->"
    page.write_text(f"{marks.format('written by a program, from here')}\n{marks.format('to here')}\nEnd.\n")
    write_heads_block(page, found)
    assert heads_table(found) in page.read_text()
