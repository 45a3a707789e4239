"""What reports explain, what they say was not measured, and their tables as LaTeX."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_evals.metrics.chair import CHAIR
from vlm_evals.metrics.pope import POPE
from vlm_evals.report import paired_report, single_report
from vlm_evals.reports.latex import escaped, latex
from vlm_evals.reports.markdown import markdown
from vlm_evals.reports.pairs import compare
from vlm_evals.reports.tables import tables
from vlm_evals.reports.words import not_measured, words

from tests.evals.test_report import MITIGATED, PLAIN, SETTINGS, answers, both


@pytest.mark.parametrize("metric", [CHAIR, POPE])
def test_every_figure_of_the_published_metrics_is_explained(metric: Any) -> None:
    assert set(metric.meanings) == set(metric.ratios)


def test_a_word_is_explained_once_and_where_it_stands() -> None:
    report = both()
    found = words([CHAIR, POPE], report)
    names = [word for word, _ in found]
    assert {"CHAIR_S", "accuracy", "plain", "mitigated", "at equal recall", "control", "[95 %]"} <= set(names)
    assert "p (Holm)" not in names
    assert len(found) == len(set(found))
    alone = single_report(CHAIR, PLAIN, settings=SETTINGS)
    assert "control" not in [word for word, _ in words([CHAIR], alone)]
    assert "- **CHAIR_S**: captions that mention" in markdown(alone)


def test_what_was_not_measured_is_told_with_its_command() -> None:
    bare = paired_report([compare(CHAIR, PLAIN, {"mitigated": MITIGATED}, resamples=20)], settings=SETTINGS)
    said = " ".join(not_measured([CHAIR], bare))
    assert "`--curve`" in said
    assert "`--controls`" in said
    assert "general harm" in said
    full = " ".join(not_measured([CHAIR, POPE], both()))
    assert "`--curve`" not in full
    assert "`--controls`" not in full
    assert "`--labels repope`" in full
    assert "## Not measured" in markdown(bare)
    sampled = paired_report(
        [compare(POPE, answers(["yes"]), {"mitigated": answers(["no"])}, resamples=20)],
        settings={"protocol": {"name": "p", "hash": "h", "decoding": {"do_sample": True}}},
    )
    assert "greedy decoding" in " ".join(not_measured([POPE], sampled))
    assert "eval --paired" in " ".join(not_measured([CHAIR], single_report(CHAIR, PLAIN, settings={})))


def test_every_table_is_there_in_latex_with_protocol_and_n() -> None:
    report = both()
    text = latex(report)
    assert text.startswith("% CHAIR: ")
    assert "% protocol held-out, hash 0123abcd" in text
    assert "% n = 4" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == len(tables(report))
    assert r"CHAIR\_S & 75.0 & 25.0 & $-$50.0 [" in text
    for line in text.splitlines():
        if line.endswith(r"\\"):
            columns = len(re.split(r"(?<!\\)&", line))
            assert columns > 1


def test_letters_that_latex_reads_are_written() -> None:
    assert escaped("50 % of a_b & c #1 {x} ~ ^ \\") == (
        r"50 \% of a\_b \& c \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert escaped("[1.0, 2.0]") == "{[1.0, 2.0]}"
    assert escaped("-1.0 [-2, 0]") == "$-$1.0 [-2, 0]"
    assert escaped("two\nlines") == "two lines"


@given(st.text(max_size=30))
def test_no_letter_of_latexs_own_is_left(text: str) -> None:
    bare = escaped(text)
    for written in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\dots{}", r"$\rightarrow$"):
        bare = bare.replace(written, "")
    bare = re.sub(r"\\[{}&%$#_]", "", bare)
    bare = re.sub(r"^\{(.*)\}$", r"\1", bare) if bare.startswith(("{[", "{*")) else re.sub(r"^\$[-+]\$", "", bare)
    assert not set(bare) & set("\\{}&%$#_~^")
