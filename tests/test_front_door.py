"""The front door: what the README shows is what the program prints, and every page can be reached."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "README.md"]


def test_the_first_screen_is_real(capsys: pytest.CaptureFixture[str]) -> None:
    shown, printed = re.findall(r"```(?:python)?\n(.*?)```", README, flags=re.DOTALL)[1:3]
    example = ROOT / "examples" / "own_generate.py"
    assert shown in example.read_text("utf-8")
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_broken(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_table_of_contents_names_every_page() -> None:
    contents = (ROOT / "docs" / "README.md").read_text("utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in contents] == ["README.md"]


def test_the_examples_are_all_named() -> None:
    named = (ROOT / "examples" / "README.md").read_text("utf-8")
    examples = [one.name for kind in ("py", "ipynb") for one in (ROOT / "examples").glob(f"*.{kind}")]
    assert [name for name in examples if f"({name})" not in named] == []


def test_the_page_about_ones_own_model_shows_the_example_that_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "own_model.md").read_text("utf-8")
    example = ROOT / "examples" / "own_model.py"
    assert re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0] in example.read_text("utf-8")
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.startswith("there is a car.\n1 generation")


def test_the_picture_of_a_call_is_what_its_program_draws() -> None:
    program = ROOT / "docs" / "pictures" / "path_of_a_call.py"
    drawn = runpy.run_path(str(program))["picture"]()
    assert program.with_suffix(".svg").read_text("utf-8") == drawn


def test_the_citation_names_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
