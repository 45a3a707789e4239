"""Plots say what they show and which way is better."""

from dataclasses import replace
from pathlib import Path

import pytest
from vlm_evals.metrics.chair import CHAIR
from vlm_evals.metrics.pope import POPE
from vlm_evals.reports.plots import draw_plots
from vlm_evals.reports.style import axis_label, better, marked

from tests.evals.test_report import both


@pytest.mark.parametrize(
    ("figure", "way"),
    [("chair_s", "fewer is better"), ("chair_i", "fewer is better"), ("recall", "more is better"), ("mean_tokens", "")],
)
def test_which_way_a_figure_is_better(figure: str, way: str) -> None:
    assert better(CHAIR, figure) == way


def test_a_score_to_raise_is_better_where_it_is_more() -> None:
    assert better(POPE, "accuracy") == "more is better"
    assert better(POPE, "yes_ratio") == ""
    assert better(replace(CHAIR, higher_is_better=True), CHAIR.headline) == "more is better"


def test_arrows_lead_along_the_axis_to_where_it_is_better() -> None:
    assert axis_label(CHAIR, "recall", across=True) == "recall, % (more is better →)"
    assert axis_label(CHAIR, "chair_s", across=False) == "CHAIR_S, % (fewer is better ↓)"
    assert axis_label(CHAIR, "chair_s", across=True) == "CHAIR_S, % (fewer is better ←)"
    assert axis_label(CHAIR, "mean_tokens", across=True) == "length, tokens"
    assert (marked(CHAIR, "chair_s"), marked(CHAIR, "precision")) == ("CHAIR_S ↓", "precision")


def test_every_plot_has_a_title_and_a_direction(tmp_path: Path) -> None:
    drawn = {path.stem: path.read_text("utf-8") for path in draw_plots(tmp_path, both()) if path.suffix == ".svg"}
    titles = {
        "invented": "Objects invented most often",
        "differences": "What changed, with 95% intervals",
        "curve": "Against a plain model that only says less, or more",
    }
    assert drawn.keys() == titles.keys()
    for name, title in titles.items():
        assert title in drawn[name]
        assert "is better" in drawn[name]
