"""The chart beside the form: it shows what the page of results says, and reads it rightly."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from vlm_app.studies.league.chart import read_chart
from vlm_app.view.chart import alike, chart, league, measured, told
from vlm_evals.errors import TaskError

ROOT = Path(__file__).parents[3]


def test_the_chart_holds_what_the_page_of_results_says() -> None:
    again = "vlm-heads study chart docs/results.md app/vlm_app/assets/league.json"
    assert read_chart(ROOT / "docs" / "results.md") == league(), f"write it again: {again}"


def test_a_row_is_read_as_it_stands(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    names = ("setting", "CHAIR_S", "CHAIR_I", "recall", "CHAIR_S at equal recall", "time")
    head = f"| {' | '.join(names)} |\n| {' | '.join(['---'] * 6)} |\n"
    page.write_text(
        "Measured on 2026-01-02 with `mini` (weights abc)\n\n## Held-out, 600 scenes (x)\n\n"
        + head
        + "| plain (greedy) | 27.2 | 8.2 | 79.7 | 0 | 1.00 |\n"
        + "| VHR: `vhr:gain=2.0` | 37.3 | 11.5 | 82.0 | +7.3 [2.6, 11.7] | 1.20 |\n"
        + "| control, random heads of: VHR: `vhr:heads=random` | 30.0 | 9.0 | 80.0 | +1.0 [-2.0, 3.0] | 1.10 |\n"
        + "| SPIN: `spin` | 33.3 | 5.5 | 62.1 | off the curve | 3.08 |\n"
        + "| VAR | n/a: no sinks found |  |  |  |  |\n\n## Shifted, 500 scenes (y)\n\n"
        + head
        + "| VHR: `vhr:gain=2.0` | 99.9 | 99.9 | 99.9 | +9.9 [9.9, 9.9] | 9.99 |\n"
    )
    found = read_chart(page)
    assert (found["model"], found["weights"], found["scenes"]) == ("mini", "abc", 600)
    assert found["plain"] == {"chair_s": 27.2, "recall": 79.7, "time": 1.0}
    vhr, spin = found["settings"]  # the control is none, and VAR could not play
    assert vhr["words"] == ["vhr"]  # gain 2 is the default
    assert vhr["at_equal_recall"] == {"estimate": 7.3, "low": 2.6, "high": 11.7}
    assert spin["at_equal_recall"] is None
    page.write_text("nothing")
    with pytest.raises(TaskError, match="no table of held-out scenes"):
        read_chart(page)


def test_what_was_measured_is_told_and_what_was_not_is_said() -> None:
    said = told(["vhr"])
    assert "37.3 % of the captions invent something, 82.0 % of the objects are found; plain: 27.2 %" in said
    assert "+7.3 points [2.6, 11.9], more than by chance" in said
    assert "cannot be told from no difference" in told(["vhr:gain=0.5"])
    assert "No plain answers of any length find as much." in told(["spin"])
    unmeasured = told(["vhr:gain=3.3"])
    assert unmeasured.startswith("This setting was not measured. Of the same methods were: vhr, vhr:gain=0.5")
    assert told(["vhr", "vcd"]) == "This setting was not measured."
    assert told([]).startswith("Nothing is attached: 27.2 %")


@pytest.mark.parametrize("words", [["vhr"], ["vhr:gain=3.3"], [], ["vhr", "vcd"]])
def test_every_dot_lies_on_the_chart(words: list[str]) -> None:
    shown = ElementTree.fromstring(f"<div>{chart(words, 'mini')}</div>")
    dots = list(shown.iter("circle"))
    this = [dot for dot in dots if dot.get("class") in ("vh-this", "vh-alike")]
    assert len(this) == (1 if words and measured(words) else len(alike(words)) if words else 0)
    assert all(0 < float(dot.get("cx", "")) < 320 and 0 < float(dot.get("cy", "")) < 170 for dot in dots)
    plain = next(dot for dot in dots if dot.get("class") == "vh-plain-dot")
    vhr = next(dot for dot in dots if re.match("vhr: 37.3", dot.findtext("title") or ""))
    assert float(vhr.get("cx", "")) > float(plain.get("cx", ""))  # it finds more
    assert float(vhr.get("cy", "")) < float(plain.get("cy", ""))  # and invents more, which lies higher


def test_another_model_is_told_apart() -> None:
    assert "another model may do otherwise" in chart(["vhr"], "small")
    assert "another model" not in chart(["vhr"], "mini")


def test_a_method_that_finds_next_to_nothing_does_not_stretch_the_chart() -> None:
    found = league()
    lowest = min(found["settings"], key=lambda row: row["recall"])
    assert lowest["recall"] < found["plain"]["recall"] - 30  # one of the contrasts collapses on mini
    shown = ElementTree.fromstring(f"<div>{chart([], 'mini')}</div>")
    across = [int(tick.text or "") for tick in shown.iter("text") if tick.get("text-anchor") == "middle"]
    assert min(across) > found["plain"]["recall"] - 40
