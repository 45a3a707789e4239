"""The league: who plays, what is chosen, that it goes on after a kill, and that its pages hold what was measured."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vlm_app.models import load_vlm, parse_mitigations
from vlm_app.studies.league.entries import (
    PUBLISHED,
    ROUTE_STATED,
    Entry,
    choose,
    combinations,
    finalists,
    other_methods,
    sweep_of_settings,
)
from vlm_app.studies.league.heads import heads_that_invent, why_not
from vlm_app.studies.league.pages import results_page, write_block, write_pages
from vlm_app.studies.league.play import League, Round, _rounds, _too_slow, about
from vlm_app.studies.league.route_page import route_page
from vlm_evals.answer import Asking, Processes
from vlm_evals.data.coco import CocoFolder
from vlm_evals.errors import TaskError
from vlm_evals.protocol import DESCRIBE
from vlm_evals.records import Answer, write_json
from vlm_evals.runs import answers_in

from tests.support.command import Command, Mistake
from vlm_heads import VLM, HeadReinforcement, known_methods, parse_mitigation

FEW = [
    PUBLISHED,
    Entry("RouteGain", ("route:image=1.5,heads=all",), label="RouteGain, all heads"),
    Entry("AD-HH", ("adhh:heads=0.0,threshold=0.999",), label="AD-HH"),
    Entry("VCD", ("vcd",), label="VCD"),
]


ROWS = [*FEW, PUBLISHED.on("random")]
WHERE = Round("held-out", captions=3, asked=1)


@pytest.fixture(scope="module")
def league(untrained_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> League:
    asking = Asking(load_vlm(str(untrained_mini), "cpu", 0), batch_size=4, allow_idle=True)
    return League(asking, tmp_path_factory.mktemp("league"), Processes(), seed=3)


@pytest.fixture(scope="module")
def measured(league: League) -> dict[str, Any]:
    return league.measure(ROWS, WHERE)


def test_the_sweep_is_gains_by_layers_by_heads_and_other_levers() -> None:
    names = [entry.name for entry in sweep_of_settings()]
    route = 5 * 5 + 4 * 2 * 2 + 2 * 2 + 2 * 2 * 3
    assert len(set(names)) == len(names) == 1 + 5 * 3 * 2 + route + 3 * 3 + 3 * 2 + 3 * 2
    assert "vhr gain=0.5 layers=last-half heads=fixed" in names
    assert all(entry.is_route for entry in sweep_of_settings(route_only=True))
    assert all(parse_mitigations(entry.words) for entry in [*sweep_of_settings(), *other_methods("1.2")])


def test_a_control_is_the_same_gain_on_other_heads() -> None:
    control = PUBLISHED.on("bottom")
    assert parse_mitigation(control.words).interventions == (HeadReinforcement(gain=2.0, heads="bottom"),)
    assert (control.role, control.controls, control.of) == ("control", False, (PUBLISHED.name,))
    assert Entry("x", ("route", "vcd:alpha=2")).on("random").words == ("route:heads=random", "vcd:alpha=2")


def test_the_lowest_at_equal_recall_is_chosen_and_what_left_the_curve_is_not() -> None:
    entries = [Entry("A", (word,)) for word in ("a1", "a2", "a3")] + [Entry("B", ("b1",))]
    off = {"a1": 0.02, "a2": -0.01, "a3": None, "b1": None}
    measured = {"chair": {"controls": {n: {"curve_difference": {"chair_s": {"estimate": e}}} for n, e in off.items()}}}
    assert choose(entries, measured) == [replace(entries[1], label="A, chosen")]


def test_every_known_method_plays_at_its_defaults_once() -> None:
    """VHR and RouteGain at their defaults are stated; AD-HH plays with its list, and PAI's stream beside PAI."""
    others = other_methods("1.2")
    played = [one.name for entry in [*ROUTE_STATED, PUBLISHED, *others] for one in entry.mitigation.methods()]
    assert set(played) == set(known_methods())
    assert not {"vhr", "route"} & {entry.words[0] for entry in others}
    assert [entry.label for entry in others if "adhh" in entry.words[0]] == ["AD-HH, heads found here"]
    assert ("pai", "pai-contrast") in [entry.words for entry in others]
    assert all(entry.label == entry.method for entry in others)


def test_what_takes_one_prompt_at_a_time_plays_where_it_is_named() -> None:
    slow, fast = Entry("OPERA", ("opera",)), Entry("VCD", ("vcd",))
    assert "name it in --methods" in str(_too_slow(slow, ()))
    assert _too_slow(slow, ("opera",)) is None
    assert _too_slow(fast, ()) is None


def test_it_plays_on_some_splits_and_always_on_validation() -> None:
    assert [where.split for where in _rounds(())] == ["validation", "held-out", "shifted", "scrambled"]
    assert [where.split for where in _rounds(["held-out"])] == ["validation", "held-out"]
    with pytest.raises(TaskError, match="--splits train: beside validation it plays on held-out"):
        _rounds(["train"])


def test_a_subset_plays_by_the_names_of_its_methods() -> None:
    both = Entry("x", ("vhr:gain=2", "askback"))
    assert both.made_of(["askback", "vhr"])
    assert both.made_of([])
    assert not both.made_of(["askback"])


def test_a_setting_that_is_written_otherwise_is_the_same_row() -> None:
    """BranchContrast's defaults are a start of 0.25 and a weight of 0.25."""
    chosen = Entry("BranchContrast", ("branch:start=0.25,weight=0.25",), label="BranchContrast, chosen")
    rows = [row for row in finalists([chosen], other_methods(None)) if row.words[0].startswith("branch")]
    assert [(row.words, row.label) for row in rows] == [(chosen.words, "BranchContrast, chosen; BranchContrast")]


def test_settings_that_share_a_control_both_have_it() -> None:
    one, other = (Entry("x", (f"route:heads={heads}",), controls=True, label=heads) for heads in ("vhd", "mass"))
    rows = {row.words: row for row in finalists([one, other], [], route_only=True)}
    assert rows[("route:heads=bottom",)].of == (ROUTE_STATED[0].name, one.name, other.name)


def test_every_finalist_plays_once() -> None:
    stated = finalists([], other_methods(None))
    chosen = replace(PUBLISHED, label="VHR, chosen")
    rows = finalists([chosen], other_methods(None))
    assert [row.name for row in rows] == [row.name for row in stated]
    assert next(row for row in rows if row.name == PUBLISHED.name).label == "VHR as published; VHR, chosen"
    assert all(row.is_route for row in finalists([], [], route_only=True))


def test_the_winners_play_together_and_a_check_has_controls_of_its_own() -> None:
    branch = Entry("BranchContrast", ("branch:start=0.25,weight=0.25",), label="BranchContrast, chosen")
    both = Entry("AskBack, both", ("askback:by=both,say_more=0.7",), controls=True, label="AskBack, both, chosen")
    assert [one.words for one in combinations([branch, both])] == [(*branch.words, *both.words)]
    assert combinations([branch]) == []
    rows = {row.label: row for row in finalists([branch, both], [])}
    assert rows["BranchContrast + AskBack, both chosen"].words == (*branch.words, *both.words)
    control = rows["control, random-words of: AskBack, both, chosen"]
    check = parse_mitigations(control.words).check
    assert (control.role, check.by, check.say_more, check.control) == ("control", "both", 0.7, "random")
    assert "control, bottom heads of: AskBack, both, chosen" not in rows


def test_measured_again_after_a_kill_gives_the_same(league: League, measured: dict[str, Any]) -> None:
    path = league.out / "held-out" / "chair" / FEW[1].name / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-40])  # a torn last line, as a kill leaves it
    assert league.measure(ROWS, WHERE)["chair"] == measured["chair"]
    assert set(measured["chair"]["controls"]) == {entry.name for entry in ROWS}
    assert measured["pope"]["questions"] == 18
    assert measured["idle"] == [FEW[2].name]  # one head whose weight on its own words never reaches 0.999
    for name in (entry.name for entry in FEW):
        assert len(answers_in(league.out / "held-out" / "chair" / name)) == 3


def test_its_pages_hold_what_was_measured(measured: dict[str, Any], tmp_path: Path) -> None:
    rounds = [Round(split, captions=3) for split in ("held-out", "shifted", "scrambled")]
    found = {
        "about": about(str(tmp_path / "mini"), "0123456789", rounds, Processes(), 3),
        "rows": {
            entry.name: {"method": entry.method, "words": entry.words, "label": entry.label, "role": entry.role}
            for entry in ROWS
        },
        "unfit": {"VAR": "no sinks found"},
        "sweep": measured | {"split": "validation"},
        "final": [measured | {"split": where.split} for where in rounds],
    }
    page = results_page(found)
    for part in (
        "Measured on 20",
        "`mini` (weights 01234567)",
        "`vcd`",
        "| VAR | n/a: no sinks found |",
        "it never acted",
        "controls aside",
        "After Holm's correction over",
        "## The goal",
    ):
        assert part in page
    assert all(f"## {where.split.capitalize()}, 3 scenes" in page for where in rounds)
    assert str(tmp_path) not in page
    write_json(tmp_path / "league.json", found)
    results, route, effect, field = (tmp_path / f"{name}.md" for name in ("results", "route", "effect", "field"))
    begin, end = (f"<!-- league: {words} -->" for words in ("written by a program, from here", "to here"))
    results.write_text(f"Before.\n\n{begin}\nwhat was measured last year\n{end}\nEnd.\n")
    for _ in range(2):  # filled in again, it is the same page
        write_pages([tmp_path, tmp_path], results=results, route=route, effect=effect, field=field)
        text = results.read_text()
        assert (text.startswith("Before."), text.endswith("End.\n")) == (True, True)
        assert "last year" not in text
        assert text.count(page.strip()) == 1
    assert route.read_text().count("| mini | RouteGain, all heads") == 6  # three splits of two leagues
    said = route_page([found, found | {"final": found["final"][:1], "sweep": None}])
    assert "VCD" not in said
    assert said.count("### What validation says") == 1
    assert "| CHAIR_S at equal recall | mini, 3 | mini, 3 |" in said  # held-out scenes
    assert "| CHAIR_S at equal recall | mini, 3 |\n" in said  # the others, which the second did not play
    assert effect.read_text().count("| VCD `vcd` | mini |") == 6
    assert "### Scrambled scenes\n\n| setting | mini, 3 | mini, 3 |" in field.read_text()
    timed = tmp_path / "times.json"
    write_json(timed, {"model": "mini", "ways": {"plain": {"ratio": 1.0}, "vcd": {"ratio": 1.75}}})
    write_pages([tmp_path], effect=effect, results=results, times=[timed])
    assert all(" | 1.75* | " in line for line in results.read_text().splitlines() if line.startswith("| VCD: `vcd`"))
    assert effect.read_text().count("| no control | 1.75 |") == 3
    with pytest.raises(TaskError, match=r"gone\.json holds no times of captions: write it by vlm-heads bench captions"):
        write_pages([tmp_path], effect=effect, times=[tmp_path / "gone.json"])
    played_before = replace_rows(found, lambda row: {key: value for key, value in row.items() if key != "p"})
    write_json(tmp_path / "league.json", played_before)
    with pytest.raises(TaskError, match="play it again"):
        write_pages([tmp_path], results=results)


def replace_rows(found: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return a league with every row of captions changed."""
    final = []
    for one in found["final"]:
        rows = {name: change(row) for name, row in one["chair"]["controls"].items()}
        final.append(one | {"chair": one["chair"] | {"controls": rows}})
    return found | {"final": final}


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine")
    with pytest.raises(TaskError, match="written by a program"):
        write_block(page, "league", "text")
    assert page.read_text() == "mine"
    with pytest.raises(TaskError, match="play it first"):
        write_pages([tmp_path], results=page)


def test_who_cannot_play_is_said() -> None:
    vlm = VLM.from_pretrained("planted")
    assert why_not(vlm, Entry("VAR", ("var",))) == "no sinks found"
    assert why_not(vlm, Entry("VHR", ("vhr",))) is None
    assert why_not(vlm, Entry("VCD", ("vcd",))) is None
    assert "needs directions" in (why_not(vlm, Entry("VTI", ("vti",))) or "")


def test_heads_for_adhh_come_from_the_models_own_captions(small_world: Path, tmp_path: Path) -> None:
    """Written by hand: one caption with an invented zebra; the list is layer.head pairs of this model."""
    data = CocoFolder.find(small_world)
    vlm = VLM.from_pretrained("mini")
    image = next(iter(data.images))
    ids = vlm.processor.tokenizer("There is a zebra and a truck.", add_special_tokens=False)["input_ids"]
    run = tmp_path / "run"
    run.mkdir()
    answer = Answer(str(image), "There is a zebra and a truck.", tuple(ids), 0.1)
    (run / "answers.jsonl").write_text(json.dumps(answer.as_row()) + "\n")
    found = heads_that_invent(vlm, run, data, DESCRIBE)
    assert found is not None
    assert parse_mitigations([f"adhh:heads={found}"])
    silent = Answer(str(image), "", (), 0.1)
    (run / "answers.jsonl").write_text(json.dumps(silent.as_row()) + "\n")
    assert heads_that_invent(vlm, run, data, DESCRIBE) is None


def test_an_unknown_part_of_the_league_is_refused(
    mistake: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "route" in mistake("study", "league", "--only", "vhr")
    assert "--results, --route, --effect or --field" in mistake("study", "pages", tmp_path)
    assert "did you mean 'm3id'" in mistake("study", "league", "--methods", "m3di")
    assert "leave out --methods" in mistake("study", "league", "--methods", "vcd", "--with", "vcd")
    assert list(tmp_path.iterdir()) == []


def test_given_settings_play_alone(command: Command, tmp_path: Path) -> None:
    words = ("--with", "m3id", "--with", "vhr vcd", "--scale", 0, "--out", tmp_path, "--json")
    found = command("study", "league", *words).value
    assert [one["split"] for one in found["final"]] == ["held-out", "shifted", "scrambled"]
    assert list(found["rows"]) == ["m3id", "vhr+vcd"]
    assert list(found["final"][0]["chair"]["controls"]) == ["m3id", "vhr+vcd"]
    page = (tmp_path / "league.md").read_text()
    assert "`vhr vcd`" in page
    assert "no control of it was played" in page


def test_it_plays_on_captions_alone_where_that_is_asked(command: Command, tmp_path: Path) -> None:
    words = ("--with", "m3id", "--scale", 0, "--splits", "held-out", "--captions-only", "--out", tmp_path, "--json")
    final = command("study", "league", *words).value["final"]
    assert [(one["split"], one["asked"], "pope" in one) for one in final] == [("held-out", 0, False)]
    assert {path.name for path in (tmp_path / "held-out").iterdir()} == {"chair"}


def test_the_scenes_that_choose_are_counted_by_themselves(command: Command, tmp_path: Path) -> None:
    """BranchContrast's six settings are swept; the other splits have a share of their own."""
    words = ("--methods", "branch", "--scale", 0, "--validation", 13, "--splits", "held-out", "--captions-only")
    found = command("study", "league", *words, "--out", tmp_path, "--json").value
    assert (found["sweep"]["captions"], [one["captions"] for one in found["final"]]) == (13, [12])


def test_methods_of_which_none_can_act_are_refused_with_their_reason(mistake: Mistake, tmp_path: Path) -> None:
    assert "needs directions" in mistake("study", "league", "--methods", "vti", "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_given_setting_that_cannot_be_read_is_refused_first(mistake: Mistake, tmp_path: Path) -> None:
    assert "did you mean 'm3id'" in mistake("study", "league", "--with", "m3di", "--out", tmp_path)
    assert not list(tmp_path.iterdir())
