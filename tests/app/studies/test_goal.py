"""The goal and Holm's correction over a league's rows: worked examples, one condition at a time."""

from typing import Any

import pytest
from vlm_app.studies.league.entries import Entry
from vlm_app.studies.league.evidence import corrected, evidence
from vlm_app.studies.league.field import field, field_page
from vlm_app.studies.league.goal import Place, goal, times_of, verdict
from vlm_app.studies.league.pages import summary, table
from vlm_evals.metrics.chair import CHAIR
from vlm_evals.records import Score
from vlm_evals.reports.pairs import compare


def change(estimate: float | None, low: float = -0.5, high: float = -0.1) -> dict[str, Any]:
    return {"estimate": estimate, "low": low, "high": high}


def place(**more: Any) -> Place:
    """Return a place where the goal is reached, but for what is given."""
    fall = {"chair_s": change(-0.4), "chair_i_distinct": change(-0.3)}
    return Place(**{"model": "mini", "split": "shifted", "relative": fall, "over": {"c": True}, "times": 1.5} | more)


def test_exactly_the_goal_reaches_it() -> None:
    assert verdict([place(), place(model="small")]) == "reached."


@pytest.mark.parametrize(
    ("missed", "reason"),
    [
        ({"relative": {"chair_s": change(-0.29), "chair_i_distinct": change(-0.4)}}, "CHAIR_S does not fall by 30%"),
        ({"relative": {"chair_s": change(-0.4), "chair_i_distinct": change(-0.29)}}, "(-29 % on mini, shifted)"),
        ({"relative": {"chair_s": change(-0.4, high=0.0), "chair_i_distinct": change(-0.4)}}, "does not lie below 0"),
        ({"relative": {"chair_s": change(None), "chair_i_distinct": change(None)}}, "no change of CHAIR_S at equal"),
        ({"over": {"control, random heads": False, "d": True}}, "not better than its control, random heads"),
        ({"over": {}}, "no control of it was played"),
        ({"times": 1.51}, "more than 1.5 times plain's time (1.51 on mini, shifted)"),
    ],
)
def test_every_condition_must_hold_everywhere(missed: dict[str, Any], reason: str) -> None:
    found = verdict([place(), place(**missed)])
    assert found.startswith("missed, because ")
    assert reason in found
    assert found.count(";") == (1 if "None" in str(missed) else 0)  # where nothing can be told, of both figures


def test_a_reason_names_two_places_and_counts_the_others() -> None:
    slow = [place(model=f"mini-{seed}", times=2.0) for seed in range(4)]
    assert "(2.00 on mini-0, shifted; 2.00 on mini-1, shifted; and 2 more of 5)" in verdict([place(), *slow])


def row(p: float | None, estimate: float | None, *, better: bool | None = None) -> dict[str, Any]:
    """Return one row of a league: both figures alike."""
    both = ("chair_s", "chair_i_distinct")
    figures = dict.fromkeys(("chair_s", "chair_i", "chair_i_distinct", "recall", "repeated_mentions"), 0.5)
    off = change(estimate, high=-0.1 if estimate is not None and estimate < 0 else 0.1)
    return figures | {
        "mean_tokens": 20.0,
        "curve_difference": dict.fromkeys(both, off),
        "relative": dict.fromkeys(both, off),
        "p": dict.fromkeys(both, p),
        "over": {} if better is None else {"b": {"better": better}},
    }


def league(model: str, rows: dict[str, dict[str, Any]], split: str = "held-out") -> dict[str, Any]:
    """Return a league of one split; the row `b` is a control of `a`."""
    words = {"a": "vhr", "b": "vhr:heads=random", "c": "m3id", "d": "vcd", "e": "route"}
    control = "control, random heads of: A"
    entries = {
        name: {
            "method": name, "words": [words[name]], "label": control if name == "b" else name.upper(),
            "role": "control" if name == "b" else "setting",
        }
        for name in rows
    }  # fmt: skip
    plain = row(None, None)
    measured = {"split": split, "captions": 9, "chair": {"plain": plain, "controls": rows}, "idle": []}
    measured["seconds"] = dict.fromkeys(("plain", *rows), 1.0)
    return {"about": {"model": model}, "rows": entries, "unfit": {}, "sweep": None, "final": [measured]}


ROWS = {
    "a": row(0.010, -0.4, better=True), "b": row(0.040, -0.1), "c": row(0.030, 0.2), "d": row(0.005, 0.3),
    "e": row(None, None),
}  # fmt: skip


def test_holm_goes_over_all_rows_of_a_split_that_lie_on_the_curve() -> None:
    """0.005 x 4 = 0.020, 0.010 x 3 = 0.030, 0.030 x 2 = 0.060, and 0.040 x 1 is raised to that; e does not count."""
    found = corrected(league("mini", ROWS)["final"][0])
    expected = {"a": 0.030, "b": 0.060, "c": 0.060, "d": 0.020}
    assert found["chair_s"].pop("e") is None
    assert found["chair_s"] == pytest.approx(expected)


def test_the_pages_say_what_stands() -> None:
    """At 0.05 the raw p of four rows would stand; corrected, those of a and d do."""
    found = league("mini", ROWS)
    said = summary(found, found["final"][0])
    assert "After Holm's correction over 4 rows stand, by CHAIR_S: inventing less: A; inventing more: D." in said
    lines = table(found, found["final"][0]).splitlines()
    assert ["stands, p 0.030" in line for line in lines[3:]] == [True, False, False, False, False]
    assert "| no, p 0.060 |" in lines[4]
    assert "| off the curve | – | off the curve | – |" in lines[7]


def test_the_goal_of_several_leagues_judges_what_played_in_all() -> None:
    here, there = league("mini", ROWS), league("small", {name: ROWS[name] for name in "abd"})
    said = goal([here, there])
    assert "**Reached by A `vhr`.**" in said
    assert "- A `vhr`: reached." in said
    assert "- D `vcd`: missed, because CHAIR_S does not fall by 30% (+30 % on mini, held-out; +30 % on small" in said
    assert "<summary>Not played everywhere, and not judged: 2</summary>\n\nC `m3id`; E `route`" in said
    assert said.count("-40 % [-50, -10], below 0 | -40 % [-50, -10], below 0 | 1 of 1 | 1.00 |") == 2
    assert said.index("- A") < said.index("- D")  # what reaches it in more places first
    assert "| A `vhr` | **2 of 2** | 2 | 2 | 2 | 1.00 |" in said
    assert "| D `vcd` | **0 of 2** | 0 | 0 | 0 | 1.00 |" in said
    assert "The other" not in said


def test_settings_that_reach_it_nowhere_are_folded_away_behind_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holds in one of two places and costs more in the other; C falls further, without a control: in none."""
    monkeypatch.setattr("vlm_app.studies.league.goal.SHOWN", 1)
    here, there = (league(name, {**ROWS, "c": row(0.01, -0.6)}) for name in ("mini", "small"))
    there["final"][0]["seconds"]["a"] = 1.6
    said = goal([here, there])
    assert "The 1 that reach it in the most places" in said
    assert "| A `vhr` | **1 of 2** | 2 | 2 | 2 | 1.00 to 1.60 |" in said
    assert "| C `m3id` | **0 of 2**" not in said
    folded = said[said.index("<summary>The other 3</summary>") :]
    assert folded.index("- C `m3id`: missed") < folded.index("All numbers")


def test_a_time_that_was_taken_in_turns_stands_in_place_of_the_leagues() -> None:
    slow = league("mini, seed 0", ROWS)
    slow["final"][0]["seconds"]["a"] = 2.0
    assert "- A `vhr`: missed, because it takes more than 1.5 times plain's time (2.00 on mini, seed 0" in goal([slow])
    timed = times_of({"model": "mini", "ways": {"plain": {"ratio": 1.0}, "vhr:gain=2": {"ratio": 1.4}}})
    assert timed == {("mini", "vhr"): 1.4}  # 2 is its default
    said = goal([slow], timed)
    assert "- A `vhr`: reached." in said
    assert "1 of 1 | 1.40 |" in said
    assert "by taking turns" in said
    assert "by taking turns" not in goal([slow])


def test_nothing_that_reaches_the_goal_is_said_to() -> None:
    said = goal([league("mini", {**ROWS, "a": row(0.01, -0.4, better=False)})])
    assert "**Missed by all settings that were played everywhere, 4 of 4.**" in said
    assert "1 of 1" not in said
    assert "0 of 1; not random heads" in said


def test_the_field_has_a_row_for_each_setting_and_a_column_for_each_model() -> None:
    """A control has none; what one model's validation chose is told by its name, the rest by what was asked."""
    here, there = league("mini", ROWS), league("small", {name: ROWS[name] for name in "abd"})
    here["rows"]["d"]["label"] = "D, chosen"
    assert field([here, there], "held-out").splitlines() == [
        "| setting | mini, 9 | small, 9 |",
        "| --- | --- | --- |",
        "| `vhr` | **-40.0** [-50.0, -10.0] · 1/1 | **-40.0** [-50.0, -10.0] · 1/1 |",
        "| `m3id` | +20.0 [-50.0, 10.0] |  |",
        "| D, chosen | **+30.0** [-50.0, 10.0] |  |",
        "| `vcd` |  | **+30.0** [-50.0, 10.0] |",
        "| `route` | off |  |",
    ]
    assert field_page([here, there]).endswith("What was chosen:\n\n- D, chosen: mini `vcd`\n")


def scores(*, invented: int, found: int) -> list[Score]:
    """Return five captions that all look alike: of ten objects said some are invented, of ten there some are found."""
    counts = dict(CHAIR.nothing or {}) | {
        "captions": 1, "hallucinated_captions": 1, "distinct": 10, "distinct_hallucinated": invented, "mentions": 10,
        "hallucinated_mentions": invented, "found": found, "truth": 10,
    }  # fmt: skip
    return [Score(str(one), str(one), counts) for one in range(5)]


def test_a_row_is_better_than_its_control_each_at_its_own_recall() -> None:
    """The curve goes from (recall 0.8, 40 % invented) to (0.4, 20 %), and every caption invents something.

    At recall 0.6 it has 30 %: the setting's 10 % is two thirds less and the control's 20 % a third less, so the setting
    is 10 points better. The share of captions is the same for all, so it is not better by both figures.
    """
    runs = {"a": scores(invented=1, found=6), "b": scores(invented=2, found=6), "off": scores(invented=2, found=9)}
    compared = compare(CHAIR, scores(invented=4, found=8), runs, curve={1.0: scores(invented=2, found=4)}, resamples=99)
    entries = [Entry("a", ("a",)), *(Entry("a", (name,), role="control", of=("a",)) for name in ("b", "off"))]
    found = evidence(compared, entries)
    assert found["a"]["relative"]["chair_i_distinct"]["estimate"] == pytest.approx(-2 / 3)
    assert found["b"]["relative"]["chair_i_distinct"]["estimate"] == pytest.approx(-1 / 3)
    assert found["a"]["p"] == pytest.approx({"chair_s": 1.0, "chair_i_distinct": 2 / 100})
    over = found["a"]["over"]["b"]
    assert over["chair_i_distinct"]["estimate"] == pytest.approx(-0.1)
    assert (over["chair_s"]["estimate"], over["better"], over["at_equal_recall"]) == (0, False, True)
    # a control that left the curve is compared as it is: 10 % less 20 %
    assert found["a"]["over"]["off"]["at_equal_recall"] is False
    assert found["a"]["over"]["off"]["chair_i_distinct"]["estimate"] == pytest.approx(-0.1)
    assert found["b"]["over"] == {}
