"""`vlm-heads methods`: every method, and the page that is written from them."""

from pathlib import Path

import pytest
from vlm_app import scorer_page
from vlm_app.method_facts import by_lever, default_of, own_text, range_of
from vlm_app.method_page import page_text

from tests.support.command import Command
from vlm_heads import HeadReinforcement, known_contrasts, known_methods, parse_method
from vlm_heads.methods import LEVERS
from vlm_heads.scorers import known_scorers

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"


def test_the_page_is_what_the_program_writes() -> None:
    written = page_text(ROOT / "docs" / "results.md")
    assert PAGE.read_text("utf-8") == written, "write it anew: vlm-heads methods --write docs/methods.md"


def test_the_page_of_scorers_is_what_the_program_writes() -> None:
    written = (ROOT / "docs" / "scorers.md").read_text("utf-8")
    assert written == scorer_page.page_text(), "write it anew: vlm-heads methods --write docs/methods.md"


@pytest.mark.parametrize("name", known_scorers())
def test_every_scorer_says_what_it_computes(name: str) -> None:
    kind = known_scorers()[name]
    summary, sections = own_text(kind)
    assert summary
    assert sections["Formula"]
    assert kind.unit
    assert all(one.help for one in kind.options())


@pytest.mark.parametrize("name", known_methods())
def test_every_method_says_what_it_computes(name: str) -> None:
    kind = known_methods()[name]
    summary, sections = own_text(kind)
    assert summary
    assert sections["Formula"]
    assert all(one.help for one in kind.options())


@pytest.mark.parametrize("name", known_methods())
def test_every_method_of_the_package_names_its_lever(name: str) -> None:
    assert known_methods()[name].lever in LEVERS


def test_methods_are_grouped_by_lever() -> None:
    groups = by_lever(known_methods().values())
    assert sorted(kind.name for some in groups.values() for kind in some) == list(known_methods())
    assert {kind.name for kind in groups["second stream"]} == set(known_contrasts())
    assert [*groups] == [lever for lever in LEVERS if lever in groups]
    written = page_text(ROOT / "docs" / "results.md")
    for lever, some in groups.items():
        assert f"| **{lever}**: {LEVERS[lever]} | [`{some[0].name}`]" in written


@pytest.mark.parametrize("name", known_methods())
def test_defaults_are_written_as_they_are_read(name: str) -> None:
    kind = known_methods()[name]
    options = ",".join(f"{one.name}={default_of(one)}" for one in kind.options())
    assert parse_method(f"{name}:{options}") == kind()


def test_a_range_is_said_in_words() -> None:
    ranges = {one.name: range_of(one) for kind in known_methods().values() for one in kind.options()}
    assert ranges["gain"] == "a number, at least 0"
    assert ranges["noise_step"] == "a whole number from 0 to 1000"
    assert ranges["threshold"] == "a number, at least 0, or relative"
    assert ranges["blind"] == "plain, lockstep or two-pass"
    assert ranges["lead"] == "a text"


LEAGUE = """## Held-out, 6 scenes

| setting | CHAIR_S | recall | CHAIR_S at equal recall | POPE accuracy | time |
|---|---|---|---|---|---|
| plain | 27.2 | 1 | 0 | 2 | 3 |
| control of: `vhr` | 4 | 4 | 4 | 4 | 4 |
| VAR | n/a: no sinks |  |  |  |  |
| A: `vhr:gain=3 vcd` | 37.3 | 5 | 6 | 7 | 8 |

## Other
"""


def test_what_a_method_did_is_copied_from_the_league(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"<!-- league: from here -->\n{LEAGUE}\n<!-- league: to here -->\n")
    vhr = page_text(page).partition("\n## vhr\n")[2].partition("\n## ")[0]
    assert vhr.rstrip().endswith("| plain | 27.2 | 1 | 0 | 2 | 3 |\n| A: `vhr:gain=3 vcd` | 37.3 | 5 | 6 | 7 | 8 |")
    assert "It could not act: no sinks" in page_text(page)
    assert "What it did" not in page_text(tmp_path / "missing.md").partition("\n## adhh\n")[2]


def test_a_method_that_was_measured_anew_shows_its_new_rows(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    anew = LEAGUE.replace("27.2", "30.1").replace("37.3", "35.5").replace("vhr:gain=3 vcd", "vhr:gain=3")
    blocks = {"league": LEAGUE, "given": anew}
    page.write_text(
        "".join(f"<!-- {name}: from here -->\n{text}\n<!-- {name}: to here -->\n" for name, text in blocks.items())
    )
    vhr, vcd = (page_text(page).partition(f"\n## {name}\n")[2].partition("\n## ")[0] for name in ("vhr", "vcd"))
    assert ("35.5" in vhr, "30.1" in vhr, "37.3" in vhr) == (True, True, False)
    assert ("35.5" in vcd, "27.2" in vcd, "37.3" in vcd) == (False, True, True)


def test_the_list_names_every_method_and_option(command: Command) -> None:
    said = command("methods").out
    for name, kind in known_methods().items():
        assert f"\n{name} " in said
        assert all(f"{one.name}={default_of(one)}" in said for one in kind.options())


def test_one_in_full(command: Command) -> None:
    said = command("methods", "vhr").out
    assert "arXiv 2412.13949" in said
    assert "Formula:\n    A[l, i]" in said
    found = command("methods", "vhr", "--json").value
    assert (found["kind"], found["passes"], found["image_free_pass"]) == ("intervention", 1, True)
    assert [one["name"] for one in found["options"]] == [one.name for one in HeadReinforcement.options()]
    assert {one["name"] for one in command("methods", "--json").value} == set(known_methods())


def test_it_writes_the_page(command: Command, tmp_path: Path) -> None:
    assert command("methods", "--write", tmp_path / "methods.md").code == 0
    assert "## vhr" in (tmp_path / "methods.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [(["vxr"], "did you mean 'vhr'"), (["vhr", "--write", "page.md"], "leave out the name")],
)
def test_a_mistake_is_one_line(command: Command, words: list[str], said: str) -> None:
    outcome = command("methods", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_league_without_questions_shows_what_it_has(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    cells = [line.split("|") for line in LEAGUE.splitlines()]
    lines = ["|".join(row[:5] + row[6:]) for row in cells]  # the fifth column is POPE's
    page.write_text("\n".join(["<!-- league: from here -->", *lines, "<!-- league: to here -->"]))
    vhr = page_text(page).partition("\n## vhr\n")[2].partition("\n## ")[0]
    assert vhr.rstrip().endswith("| plain | 27.2 | 1 | 0 | 3 |\n| A: `vhr:gain=3 vcd` | 37.3 | 5 | 6 | 8 |")
