"""The example of a method of one's own: short, right, and found by the command line when a package brings it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "new_intervention.py"
BROKEN = """
[vlm_heads.methods]
louder = louder_plugin:LouderImage
shy = louder_plugin:Shy
vhr = louder_plugin:Copy
"""


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 40


def test_it_turns_the_priors_word_into_the_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    plain, mitigated = capsys.readouterr().out.splitlines()
    assert plain.endswith("there is a dog.")
    assert mitigated.endswith("there is a car.")


@pytest.fixture
def plug_in(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds the example as a package's plug-in, beside two that cannot be used."""
    source = EXAMPLE.read_text() + "\n\nclass Copy(LouderImage):\n    name = 'vhr'\n"
    (tmp_path / "louder_plugin.py").write_text(source)
    about = tmp_path / "louder_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: louder-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(BROKEN)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}


def _run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vlm_app.cli", "describe", "sample:planted-car", "--model", "planted", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_a_package_brings_it(plug_in: dict[str, str]) -> None:
    found = _run(plug_in, "--with", "louder:gain=5", "--prompt", "what do you see?")
    assert (found.returncode, found.stderr) == (0, "")
    assert "there is a car." in found.stdout


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("louder:gian=4", "did you mean 'gain'"),
        ("shy", "the plug-in of that name cannot be used: louder_plugin:Shy cannot be imported (AttributeError"),
        ("lauder", "did you mean 'louder'"),
    ],
)
def test_a_mistake_is_one_line(word: str, said: str, plug_in: dict[str, str]) -> None:
    found = _run(plug_in, "--with", word)
    assert found.returncode == 2
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_plug_in_cannot_take_our_name(plug_in: dict[str, str]) -> None:
    program = "import vlm_heads; print(vlm_heads.known_methods()['vhr'] is vlm_heads.HeadReinforcement)"
    found = subprocess.run(
        [sys.executable, "-c", program], env=plug_in, capture_output=True, text=True, check=False, timeout=300
    )
    assert found.stdout == "True\n"
